"""The log's own key: Ed25519, named as the log's origin; in a file of mode 0600, or kept elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from remit.evidence.keys import read_or_create_text
from remit.evidence.ports import CheckpointKey
from remit.model.errors import ConfigError, EvidenceError, InputError, ProofError, UnavailableError
from remit.proof.checkpoint import Checkpoint
from remit.proof.note import ED25519, Signature, Signer, Verifier, sign_note

_SEED_BYTES = 32


class FileKey:
    """Implements ``evidence.ports.CheckpointKey`` with a key that was read from a file."""

    def __init__(self, signer: Signer) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(signer.seed)
        self.public_bytes = signer.verifier.public_key

    @classmethod
    def open(cls, path: Path, origin: str, randomness: Callable[[int], bytes]) -> FileKey:
        """Read the key in ``path``, making it where there is none.

        Raises:
            ConfigError: it cannot be read or made, others may read it, or it is another log's.
        """

        def make() -> str:
            return Signer(origin, ED25519, randomness(_SEED_BYTES)).skey

        try:
            signer = Signer.parse(read_or_create_text(path, make))
        except InputError as error:
            raise ConfigError(f"the log's key `{path}` is damaged: {error}") from error
        if signer.name != origin or signer.kind != ED25519:
            raise ConfigError(f"the key `{path}` is of the log `{signer.name}`, not of `{origin}`")
        return cls(signer)

    def sign(self, message: bytes) -> bytes:
        """Return a signature."""
        return self._key.sign(message)

    def check(self) -> None:
        """It is here."""


class NoteSigner:
    """Signs the log's checkpoints. ``origin`` is the log's name, and its key's."""

    def __init__(self, key: CheckpointKey, origin: str) -> None:
        self._key = key
        self.origin = origin
        self.verifier = Verifier(origin, ED25519, key.public_bytes)

    @classmethod
    def open(cls, path: Path, origin: str, randomness: Callable[[int], bytes]) -> NoteSigner:
        """Sign with the key in the file ``path``.

        Raises:
            ConfigError: as :meth:`FileKey.open`.
        """
        return cls(FileKey.open(path, origin, randomness), origin)

    @property
    def vkey(self) -> str:
        """The public key in the form that relying parties are given (C2SP signed-note)."""
        return self.verifier.vkey

    def sign(self, size: int, root: bytes) -> bytes:
        """Return the signed checkpoint of a log of ``size`` records under ``root``. May block.

        Raises:
            EvidenceError: the key does not sign, or what it signs does not verify.
        """
        text = Checkpoint(self.origin, size, root).text
        try:
            data = self._key.sign(text.encode())
            self.verifier.verify(text, data)
        except (UnavailableError, ProofError) as error:
            raise EvidenceError(f"no checkpoint can be signed: {error}") from error
        return sign_note(text, [], [Signature(self.origin, self.verifier.key_id, data)])

    def check(self) -> None:
        """See that the key would sign. May block.

        Raises:
            EvidenceError: it would not.
        """
        try:
            self._key.check()
        except UnavailableError as error:
            raise EvidenceError(f"no checkpoint can be signed: {error}") from error
