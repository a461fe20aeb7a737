"""Checkpoints: what a log signs, what a witness adds, and what is neither."""

import base64

import pytest

from remit.model.errors import InputError, ProofError
from remit.proof.checkpoint import (
    Checkpoint,
    cosign,
    open_checkpoint,
    sign_checkpoint,
    with_signatures,
)
from remit.proof.merkle import EMPTY_ROOT
from remit.proof.note import COSIGNATURE_V1, ED25519, Signer, sign_note

LOG = Signer("corp.example/log", ED25519, b"\x01" * 32)
OTHER = Signer("other.example/log", ED25519, b"\x04" * 32)
WITNESS = Signer("witness.example/w1", COSIGNATURE_V1, b"\x02" * 32)
CHECKPOINT = Checkpoint(LOG.name, 3, b"\x07" * 32)
SIGNED = sign_checkpoint(CHECKPOINT, LOG)


def test_a_checkpoint_opens_with_the_logs_key():
    opened = open_checkpoint(SIGNED, [LOG.verifier], origin=LOG.name)
    assert opened.checkpoint == CHECKPOINT
    assert opened.log == LOG.verifier
    assert opened.witnesses == ()


def test_the_empty_log_has_a_checkpoint():
    empty = Checkpoint(LOG.name, 0, EMPTY_ROOT)
    assert open_checkpoint(sign_checkpoint(empty, LOG), [LOG.verifier]).checkpoint == empty


def test_a_witness_is_counted_once_and_only_if_we_know_it():
    twice = [cosign(SIGNED, WITNESS, time=5), cosign(SIGNED, WITNESS, time=6)]
    cosigned = with_signatures(SIGNED, [*twice, *twice])
    assert len(cosigned.splitlines()) == len(SIGNED.splitlines()) + 2
    assert open_checkpoint(cosigned, [LOG.verifier]).witnesses == ()
    opened = open_checkpoint(cosigned, [LOG.verifier, WITNESS.verifier])
    assert opened.witnesses == (WITNESS.name,)
    assert [each.time for each in opened.cosignatures] == [5, 6]


def test_witnesses_cannot_speak_for_the_log():
    alone = with_signatures(sign_note(CHECKPOINT.text, [OTHER]), [cosign(SIGNED, WITNESS, time=5)])
    with pytest.raises(ProofError, match="itself did not sign"):
        open_checkpoint(alone, [LOG.verifier, WITNESS.verifier, OTHER.verifier])


def test_a_cosigner_named_as_the_log_is_not_the_log():
    posing = Signer(LOG.name, COSIGNATURE_V1, b"\x02" * 32)
    note = with_signatures(sign_note(CHECKPOINT.text, [OTHER]), [cosign(SIGNED, posing, time=5)])
    with pytest.raises(ProofError):
        open_checkpoint(note, [posing.verifier])


def test_another_logs_checkpoint_is_refused():
    signed = sign_checkpoint(Checkpoint(OTHER.name, 3, b"\x07" * 32), OTHER)
    with pytest.raises(ProofError, match="not of"):
        open_checkpoint(signed, [LOG.verifier, OTHER.verifier], origin=LOG.name)


ROOT = base64.b64encode(b"\x07" * 32).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"corp.example/log\n3\n{ROOT}\nextension\n",
        "corp.example/log\n3\n",
        f"\n3\n{ROOT}\n",
        f"corp.example/log\n03\n{ROOT}\n",
        f"corp.example/log\n+3\n{ROOT}\n",
        f"corp.example/log\n-3\n{ROOT}\n",
        f"corp.example/log\n3.0\n{ROOT}\n",
        f"corp.example/log\n\u0663\n{ROOT}\n",
        f"corp.example/log\n{2**63}\n{ROOT}\n",
        f"corp.example/log\n\n{ROOT}\n",
        f"corp.example/log\n3\n{ROOT}=\n",
        f"corp.example/log\n3\n{ROOT[:-4]}\n",
        f"corp.example/log\n3\n {ROOT}\n",
        f"corp.example/log\n3\n{ROOT[:-2]}d=\n",
        f"corp example/log\n3\n{ROOT}\n",
        f"corp.example/log\n3\n{ROOT}\n\n",
    ],
)
def test_a_text_that_is_not_exactly_a_checkpoint_is_refused(text: str):
    with pytest.raises(ProofError):
        Checkpoint.parse(text)
    with pytest.raises(ProofError):
        open_checkpoint(sign_note(text, [LOG]), [LOG.verifier])


def test_only_the_log_signs_its_checkpoint():
    for signer in (OTHER, Signer(LOG.name, COSIGNATURE_V1, b"\x01" * 32)):
        with pytest.raises(InputError):
            sign_checkpoint(CHECKPOINT, signer)
    with pytest.raises(InputError):
        sign_checkpoint(Checkpoint(LOG.name, -1, b"\x07" * 32), LOG)
    with pytest.raises(InputError):
        sign_checkpoint(Checkpoint(LOG.name, 1, b"short"), LOG)


def test_a_witness_signs_nothing_but_checkpoints():
    with pytest.raises(ProofError):
        cosign(sign_note("hello\n", [LOG]), WITNESS, time=5)
    with pytest.raises(InputError):
        cosign(SIGNED, OTHER, time=5)
