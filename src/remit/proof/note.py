"""Signed notes: text signed by one or more keys (C2SP signed-note v1.0.0).

Rules: signatures of keys we do not know are ignored; a signature of a key we know that does not
verify refuses the whole note; a note that no known key signed is refused. Key types are Ed25519
(0x01) and the timestamped Ed25519 cosignature of a witness (0x04, C2SP tlog-cosignature v1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from remit.model.errors import InputError, ProofError

ED25519 = 0x01
COSIGNATURE_V1 = 0x04

MAX_SIGNATURES = 64
"""More signature lines than this are refused; the standard asks for at least 16."""

MAX_NOTE_BYTES = 1_000_000

_KEY_BYTES = 32
_ID_BYTES = 4
_TYPES = frozenset({ED25519, COSIGNATURE_V1})
_SIGNATURE_BYTES = {ED25519: 64, COSIGNATURE_V1: 72}
_TIME_BYTES = 8
_MAX_TIME = 2**63 - 1
_DASH = "\u2014 "
_PRIVATE = "PRIVATE+KEY+"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who claims to have signed, and the bytes after the key id."""

    name: str
    key_id: bytes
    data: bytes

    @property
    def line(self) -> str:
        """The line as a note writes it, with its newline."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.data).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note taken apart, not yet verified. ``text`` ends in a newline."""

    text: str
    signatures: tuple[Signature, ...]

    @property
    def data(self) -> bytes:
        """The note as bytes."""
        return (self.text + "\n" + "".join(s.line for s in self.signatures)).encode()

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Take a note apart (signed-note, Format).

        Raises:
            ProofError: the bytes are not a signed note.
        """
        if len(data) > MAX_NOTE_BYTES:
            raise ProofError(f"a signed note is at most {MAX_NOTE_BYTES} bytes")
        try:
            whole = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ProofError("a signed note is UTF-8") from error
        text, separator, rest = whole.rpartition("\n\n")
        if not separator:
            raise ProofError("a signed note has a blank line before its signatures")
        lines = rest.split("\n")
        if lines.pop() != "" or not lines:
            raise ProofError("a signed note ends with signature lines, each with a newline")
        if len(lines) > MAX_SIGNATURES:
            raise ProofError(f"a signed note has at most {MAX_SIGNATURES} signatures")
        note = cls(text + "\n", tuple(_parse_line(line) for line in lines))
        _check_text(note.text, ProofError)
        return note


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with the name it signs under. ``kind`` is the signature type's byte."""

    name: str
    kind: int
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes that a signature line of this key starts with."""
        return key_id(self.name, self.kind, self.public_key)

    @property
    def vkey(self) -> str:
        """The text form: ``name+hex id+base64(type || key)``."""
        encoded = base64.b64encode(bytes([self.kind]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    @classmethod
    def parse(cls, vkey: str) -> Verifier:
        """Read a vkey.

        Raises:
            InputError: it is malformed, its id is not its key's, or its type is not known here.
        """
        name, kind, key = _parse_key(vkey, "vkey")
        found = cls(name, kind, key)
        if found.vkey != vkey:
            raise InputError(f"vkey `{vkey}` does not have the id of its key")
        return found

    def verify(self, text: str, signature: bytes) -> int | None:
        """Check one signature on a note's text; return a cosignature's time, in Unix seconds.

        Raises:
            ProofError: the signature does not verify.
        """
        if len(signature) != _SIGNATURE_BYTES[self.kind]:
            raise ProofError(f"a signature of `{self.name}` has the wrong length")
        message, time = text.encode(), None
        if self.kind == COSIGNATURE_V1:
            time = int.from_bytes(signature[:_TIME_BYTES])
            if time > _MAX_TIME:
                raise ProofError(f"the cosignature of `{self.name}` has an impossible time")
            message, signature = _cosigned(text, time), signature[_TIME_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise ProofError(f"the signature of `{self.name}` does not verify") from error
        return time


@dataclass(frozen=True, slots=True)
class Signer:
    """An Ed25519 private key with the name it signs under. Its text form is a secret."""

    name: str
    kind: int
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_key_name(self.name)
        if self.kind not in _TYPES or len(self.seed) != _KEY_BYTES:
            raise InputError(f"the key of `{self.name}` is 32 bytes of type 0x01 or 0x04")

    @classmethod
    def parse(cls, skey: str) -> Signer:
        """Read the private text form, ``PRIVATE+KEY+name+hex id+base64(type || seed)``.

        Raises:
            InputError: it is malformed; the message never holds it.
        """
        if not skey.startswith(_PRIVATE):
            raise InputError("a note signing key starts with PRIVATE+KEY+")
        name, kind, seed = _parse_key(skey.removeprefix(_PRIVATE), "signing key", secret=True)
        found = cls(name, kind, seed)
        if found.skey != skey:
            raise InputError(f"the signing key of `{name}` does not have the id of its key")
        return found

    @property
    def skey(self) -> str:
        """The private text form. A secret."""
        encoded = base64.b64encode(bytes([self.kind]) + self.seed).decode()
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{encoded}"

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        key = Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        return Verifier(self.name, self.kind, key.public_bytes_raw())

    def sign(self, text: str, *, time: int | None = None) -> Signature:
        """Sign a note's text.

        Args:
            text: the note's text, ending in a newline.
            time: Unix seconds; for a cosignature, and only for one.

        Raises:
            InputError: the text cannot be a note's, or ``time`` is missing or not wanted.
        """
        _check_text(text, InputError)
        if (time is None) is (self.kind == COSIGNATURE_V1):
            raise InputError("a cosignature, and no other signature, has a time")
        message, prefix = text.encode(), b""
        if time is not None:
            if not 0 <= time <= _MAX_TIME:
                raise InputError(f"`{time}` is not a time in Unix seconds")
            message, prefix = _cosigned(text, time), time.to_bytes(_TIME_BYTES)
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)
        return Signature(self.name, self.verifier.key_id, prefix + signature)


@dataclass(frozen=True, slots=True)
class Verified:
    """One signature of a known key that holds. ``time`` is a cosignature's, in Unix seconds."""

    verifier: Verifier
    time: int | None


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """Return the key id (signed-note, Signatures): the hash binds name, type and key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:_ID_BYTES]


def sign_note(text: str, signers: Iterable[Signer], existing: Sequence[Signature] = ()) -> bytes:
    """Return the note's bytes, signed by every signer after the existing signatures.

    Raises:
        InputError: the text cannot be a note's, or there is nobody to sign it.
    """
    _check_text(text, InputError)
    signatures = (*existing, *(signer.sign(text) for signer in signers))
    if not 0 < len(signatures) <= MAX_SIGNATURES:
        raise InputError(f"a note has 1 to {MAX_SIGNATURES} signatures")
    return Note(text, signatures).data


def open_note(data: bytes, verifiers: Iterable[Verifier]) -> tuple[str, tuple[Verified, ...]]:
    """Return a note's text and the signatures of known keys on it, in their order.

    Raises:
        ProofError: the note is malformed, a known key's signature does not verify, no known key
            signed it, or two keys cannot be told apart by what a signature says.
    """
    note = Note.parse(data)
    known = _by_id(verifiers)
    verified: list[Verified] = []
    for signature in note.signatures:
        verifier = known.get((signature.name, signature.key_id))
        if verifier is not None:
            verified.append(Verified(verifier, verifier.verify(note.text, signature.data)))
    if not verified:
        raise ProofError("no known key signed this note")
    return note.text, tuple(verified)


def _by_id(verifiers: Iterable[Verifier]) -> dict[tuple[str, bytes], Verifier]:
    """Return keys by what a signature names: four bytes that somebody can make a second key for."""
    known: dict[tuple[str, bytes], Verifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) != verifier:
            raise ProofError(f"two keys of `{verifier.name}` share a name and an id")
    return known


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _parse_line(line: str) -> Signature:
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not separator:
        raise ProofError("a signature line is an em dash, a key name and base64")
    try:
        _check_key_name(name)
    except InputError as error:
        raise ProofError(str(error)) from error
    data = _base64(encoded)
    if data is None or len(data) <= _ID_BYTES:
        raise ProofError(f"the signature of `{name}` is not base64 of an id and a signature")
    return Signature(name, data[:_ID_BYTES], data[_ID_BYTES:])


def _parse_key(text: str, what: str, *, secret: bool = False) -> tuple[str, int, bytes]:
    shown = what if secret else f"{what} `{text}`"
    name, _, rest = text.partition("+")
    identifier, separator, encoded = rest.partition("+")
    data = _base64(encoded)
    if not separator or len(identifier) != 2 * _ID_BYTES or data is None:
        raise InputError(f"{shown} is not name+hex id+base64")
    if len(data) != 1 + _KEY_BYTES or data[0] not in _TYPES:
        raise InputError(f"{shown} is not a 32-byte key of type 0x01 or 0x04")
    _check_key_name(name)
    return name, data[0], data[1:]


def _base64(text: str) -> bytes | None:
    """Return the bytes, or None unless the text is their one standard base64 form."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def _check_key_name(name: str) -> None:
    if not name or any(c == "+" or c.isspace() or c < " " for c in name):
        raise InputError(f"`{name}` is not a key name: no spaces, control characters or +")


def _check_text(text: str, error: type[InputError | ProofError]) -> None:
    if not text.endswith("\n"):
        raise error("a note's text ends in a newline")
    if any(c < " " and c != "\n" for c in text):
        raise error("a note's text has no control characters but newlines")
