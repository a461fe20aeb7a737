"""Signed notes: strict to the letter, deaf to strangers, never deaf to a known key that fails."""

import base64

import pytest

from remit.model.errors import InputError, ProofError
from remit.proof.note import (
    COSIGNATURE_V1,
    ED25519,
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Note,
    Signature,
    Signer,
    Verifier,
    open_note,
    sign_note,
)

LOG = Signer("corp.example/log", ED25519, b"\x01" * 32)
WITNESS = Signer("witness.example/w1", COSIGNATURE_V1, b"\x02" * 32)
TEXT = "corp.example/log\n0\nroot=\n"
NOTE = sign_note(TEXT, [LOG])
LINE = NOTE.decode().splitlines(keepends=True)[-1]


def test_a_note_opens_with_the_key_that_signed_it():
    text, verified = open_note(NOTE, [LOG.verifier])
    assert text == TEXT
    assert [(each.verifier, each.time) for each in verified] == [(LOG.verifier, None)]


def test_keys_read_back_as_they_were_written():
    for signer in (LOG, WITNESS):
        assert Signer.parse(signer.skey) == signer
        assert Verifier.parse(signer.verifier.vkey) == signer.verifier


def test_a_signing_key_never_shows_itself():
    assert "\\x01" not in repr(LOG)
    damaged = LOG.skey[:-4] + "AAA="
    with pytest.raises(InputError) as refused:
        Signer.parse(damaged)
    assert LOG.skey[-40:-4] not in str(refused.value)


def test_sixteen_signatures_of_strangers_do_not_hide_the_one_we_know():
    strangers = [
        Signer(f"s{number}.example", ED25519, bytes([number]) * 32) for number in range(16)
    ]
    note = sign_note(TEXT, [*strangers, LOG])
    assert open_note(note, [LOG.verifier])[1][0].verifier == LOG.verifier


def test_a_stranger_with_our_name_or_our_id_is_ignored():
    same_name = Signature(LOG.name, b"\x00" * 4, b"\x00" * 64)
    same_id = Signature("other.example", LOG.verifier.key_id, b"\x00" * 64)
    note = sign_note(TEXT, [LOG], [same_name, same_id])
    assert len(open_note(note, [LOG.verifier])[1]) == 1


def test_one_bad_signature_of_a_known_key_refuses_the_note_whatever_else_is_good():
    bad = Signature(LOG.name, LOG.verifier.key_id, b"\x00" * 64)
    other = Signer("other.example", ED25519, b"\x05" * 32)
    for known in ([LOG.verifier], [LOG.verifier, other.verifier]):
        with pytest.raises(ProofError, match="does not verify"):
            open_note(sign_note(TEXT, [LOG, other], [bad]), known)


def test_a_cosignature_covers_its_time_and_cannot_pose_as_a_signature():
    cosigned = WITNESS.sign(TEXT, time=1_764_000_000)
    _, (found,) = open_note(Note(TEXT, (cosigned,)).data, [WITNESS.verifier])
    assert found.time == 1_764_000_000
    later = (1_764_000_001).to_bytes(8) + cosigned.data[8:]
    with pytest.raises(ProofError):
        WITNESS.verifier.verify(TEXT, later)
    plain = Verifier(WITNESS.name, ED25519, WITNESS.verifier.public_key)
    with pytest.raises(ProofError):
        plain.verify(TEXT, cosigned.data[8:])
    with pytest.raises(ProofError, match="impossible time"):
        WITNESS.verifier.verify(TEXT, b"\xff" * 8 + cosigned.data[8:])


def test_a_time_belongs_to_a_cosignature_and_to_no_other():
    with pytest.raises(InputError):
        LOG.sign(TEXT, time=1)
    with pytest.raises(InputError):
        WITNESS.sign(TEXT)
    for time in (-1, 2**63):
        with pytest.raises(InputError):
            WITNESS.sign(TEXT, time=time)


@pytest.mark.parametrize("length", [0, 4, 63, 65])
def test_a_signature_of_the_wrong_length_is_refused(length: int):
    wrong = Signature(LOG.name, LOG.verifier.key_id, b"\x00" * length)
    with pytest.raises(ProofError):
        open_note(Note(TEXT, (wrong,)).data, [LOG.verifier])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        TEXT.encode(),
        NOTE[:-1],
        NOTE + b"\n",
        NOTE + b"\n" + LINE.encode(),
        NOTE + b"trailing",
        NOTE.replace(b"\n\n", b"\n"),
        NOTE.replace(b"\n", b"\r\n"),
        NOTE.replace("\u2014".encode(), b"-"),
        NOTE.replace("\u2014".encode(), b"--"),
        NOTE.replace("\u2014 ".encode(), "\u2014  ".encode()),
        NOTE.replace(b"/log ", b"/log  "),
        NOTE.replace(b"0\nroot", b"0\troot"),
        NOTE.replace(b"0\nroot", b"\x00\nroot"),
        NOTE.replace(b"0\nroot", b"\xff\nroot"),
        NOTE.replace(b"/log ", b"/log+ "),
        NOTE.replace(b"/log ", "/log\u2003 ".encode()),
        NOTE[:-2] + b"\n",
        NOTE[:-1] + b" \n",
        NOTE[:-1] + b"=\n",
        NOTE[:-2] + b"-\n",
        b"x" * (MAX_NOTE_BYTES + 1),
        NOTE + LINE.encode() * MAX_SIGNATURES,
    ],
)
def test_a_note_written_any_other_way_is_refused(data: bytes):
    with pytest.raises(ProofError):
        open_note(data, [LOG.verifier])


def test_every_flipped_bit_of_a_note_is_refused():
    for place in range(len(NOTE)):
        for bit in range(8):
            flipped = bytearray(NOTE)
            flipped[place] ^= 1 << bit
            with pytest.raises(ProofError):
                open_note(bytes(flipped), [LOG.verifier])


def _with_key(data: bytes) -> str:
    name, identifier, _ = LOG.verifier.vkey.split("+", 2)
    return f"{name}+{identifier}+{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "corp.example/log",
        LOG.verifier.vkey.replace("+", " "),
        LOG.verifier.vkey + "=",
        LOG.verifier.vkey[:-1],
        LOG.verifier.vkey + "\n",
        LOG.verifier.vkey.replace("corp", "core"),
        LOG.verifier.vkey.split("+")[1].upper().join(LOG.verifier.vkey.split("+")[::2]),
        _with_key(b"\x01" + b"\x00" * 32),
        _with_key(b"\x02" + LOG.verifier.public_key),
        _with_key(b"\x01" + LOG.verifier.public_key[:-1]),
        "+" + LOG.verifier.vkey.split("+", 1)[1],
        LOG.skey,
    ],
)
def test_a_malformed_vkey_is_refused(vkey: str):
    with pytest.raises(InputError):
        Verifier.parse(vkey)


@pytest.mark.parametrize("text", ["", "no newline", "a\tb\n", "a\rb\n", "\x00\n"])
def test_what_cannot_be_a_notes_text_is_not_signed(text: str):
    with pytest.raises(InputError):
        sign_note(text, [LOG])


def test_a_note_that_nobody_signs_is_not_written():
    with pytest.raises(InputError):
        sign_note(TEXT, [])
    with pytest.raises(InputError):
        sign_note(TEXT, [LOG] * (MAX_SIGNATURES + 1))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b"])
def test_a_signer_has_a_name_that_a_note_can_hold(name: str):
    with pytest.raises(InputError):
        Signer(name, ED25519, b"\x01" * 32)


def test_a_text_with_blank_lines_is_split_at_the_last_one():
    text = "a\n\n\u2014 forged line\n\nb\n"
    assert open_note(sign_note(text, [LOG]), [LOG.verifier])[0] == text
