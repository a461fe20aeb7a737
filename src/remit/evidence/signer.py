"""The log's own key: Ed25519, named as the log's origin, in a file of mode 0600."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from remit.evidence.keys import read_or_create_text
from remit.model.errors import ConfigError, InputError
from remit.proof.checkpoint import Checkpoint, sign_checkpoint
from remit.proof.note import ED25519, Signer, Verifier

_SEED_BYTES = 32


class NoteSigner:
    """Signs the log's checkpoints. ``origin`` is the log's name, and its key's."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.origin = signer.name
        self.verifier: Verifier = signer.verifier

    @classmethod
    def open(cls, path: Path, origin: str, randomness: Callable[[int], bytes]) -> NoteSigner:
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

    @property
    def vkey(self) -> str:
        """The public key in the form that relying parties are given (C2SP signed-note)."""
        return self.verifier.vkey

    def sign(self, size: int, root: bytes) -> bytes:
        """Return the signed checkpoint of a log of ``size`` records under ``root``."""
        return sign_checkpoint(Checkpoint(self.origin, size, root), self._signer)
