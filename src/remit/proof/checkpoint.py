"""Checkpoints: the log's signed word on its size and root (C2SP tlog-checkpoint v1.0.0).

Rules, stricter than the standard where it leaves a choice: the log signs with an Ed25519 key whose
name is the origin, and there are no extension lines.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from remit.model.errors import InputError, ProofError
from remit.proof.merkle import HASH_BYTES
from remit.proof.note import (
    COSIGNATURE_V1,
    ED25519,
    Note,
    Signature,
    Signer,
    Verified,
    Verifier,
    open_note,
    sign_note,
)

MAX_SIZE = 2**63 - 1

_SIZE = re.compile(r"(0|[1-9][0-9]{0,18})\Z", re.ASCII)
_LINES = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's name, how many leaves it has, and the root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note text: origin, size and base64 root, a line each.

        Raises:
            InputError: a part cannot be a checkpoint's.
        """
        if not self.origin or any(c.isspace() or c == "+" or c < " " for c in self.origin):
            raise InputError(f"`{self.origin}` is not an origin: no spaces and no +")
        if not 0 <= self.size <= MAX_SIZE or len(self.root) != HASH_BYTES:
            raise InputError("a checkpoint has a size and a root of 32 bytes")
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a note text.

        Raises:
            ProofError: it is not a checkpoint without extension lines.
        """
        lines = text.split("\n")
        if len(lines) != _LINES or lines[3]:
            raise ProofError("a checkpoint has three lines: origin, size and root")
        if not _SIZE.match(lines[1]):
            raise ProofError("a checkpoint's size is decimal, without leading zeroes")
        try:
            found = cls(lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True))
            again = found.text
        except (InputError, binascii.Error, ValueError) as error:
            raise ProofError("a checkpoint has an origin, a size and a base64 root") from error
        if again != text:
            raise ProofError("the checkpoint would be written differently")
        return found


@dataclass(frozen=True, slots=True)
class Opened:
    """A verified checkpoint: the log's key, and the cosignatures of the witnesses we know."""

    checkpoint: Checkpoint
    log: Verifier
    cosignatures: tuple[Verified, ...]

    @property
    def witnesses(self) -> tuple[str, ...]:
        """The witnesses that cosigned, each key once, in the order of the note."""
        return tuple(dict.fromkeys(c.verifier.name for c in self.cosignatures))


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """Return the checkpoint as a note signed by the log.

    Raises:
        InputError: the signer is not the log's: an Ed25519 key named as the origin.
    """
    if signer.kind != ED25519 or signer.name != checkpoint.origin:
        raise InputError(f"the log `{checkpoint.origin}` signs with an Ed25519 key of its own name")
    return sign_note(checkpoint.text, [signer])


def open_checkpoint(
    data: bytes, verifiers: Iterable[Verifier], *, origin: str | None = None
) -> Opened:
    """Verify a signed checkpoint: the log signed it, and known witnesses' cosignatures hold.

    Args:
        data: the note.
        verifiers: the keys we trust, the log's and any witnesses'.
        origin: the log we expect; any log we have a key of where None.

    Raises:
        ProofError: it is malformed, of another log, not signed by the log, or a signature of a key
            we know does not verify.
    """
    text, verified = open_note(data, verifiers)
    checkpoint = Checkpoint.parse(text)
    if origin is not None and checkpoint.origin != origin:
        raise ProofError(f"this is a checkpoint of `{checkpoint.origin}`, not of `{origin}`")
    logs = [v.verifier for v in verified if v.verifier.kind == ED25519]
    own = [log for log in logs if log.name == checkpoint.origin]
    if not own:
        raise ProofError(f"the log `{checkpoint.origin}` itself did not sign with a known key")
    cosignatures = tuple(v for v in verified if v.verifier.kind == COSIGNATURE_V1)
    return Opened(checkpoint, own[0], cosignatures)


def cosign(data: bytes, cosigner: Signer, *, time: int) -> Signature:
    """Return a witness's cosignature/v1 on a checkpoint it has verified already.

    Args:
        data: the signed checkpoint.
        cosigner: a key of type 0x04.
        time: now, Unix seconds.

    Raises:
        ProofError: the bytes are not a signed checkpoint.
        InputError: the key is not a cosigner's.
    """
    note = Note.parse(data)
    Checkpoint.parse(note.text)
    return cosigner.sign(note.text, time=time)


def with_signatures(data: bytes, signatures: Sequence[Signature]) -> bytes:
    """Return the note with more signature lines, each line once.

    Raises:
        ProofError: the bytes are not a signed note.
        InputError: there would be too many signatures.
    """
    note = Note.parse(data)
    known = {s.line for s in note.signatures}
    fresh = [s for s in dict.fromkeys(signatures) if s.line not in known]
    return sign_note(note.text, [], (*note.signatures, *fresh))
