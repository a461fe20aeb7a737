"""Seals what a revocation will need and nobody may read, under a key of the authority's.

AES-256-GCM with a fresh nonce; the lease's id is authenticated with it, so that a sealed value
cannot be moved to another lease's row.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from remit.model.errors import ConfigError

KEY_BYTES = 32
_NONCE_BYTES = 12


class Seal(Protocol):
    """Seals and opens."""

    def close(self, text: str, context: str) -> bytes:
        """Return ``text`` sealed; only the same ``context`` opens it."""
        ...

    def open(self, sealed: bytes, context: str) -> str:
        """Return what was sealed.

        Raises:
            ConfigError: it was sealed under another key or for another context, or altered.
        """
        ...


class KeySeal:
    """A seal under one 256-bit key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, text: str, context: str) -> bytes:
        """Return ``text`` sealed; only the same ``context`` opens it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), context.encode())

    def open(self, sealed: bytes, context: str) -> str:
        """Return what was sealed.

        Raises:
            ConfigError: it was sealed under another key or for another context, or altered.
        """
        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, body, context.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise ConfigError(
                f"what was sealed for `{context}` does not open with the present key: "
                "restore the key file that belongs to this state"
            ) from error
