"""What a provider of keys offers: one key, known by its URI, that signs where it lies.

Each method may block, for as long as the token likes: whoever calls bounds it (``kept.py``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Algorithm(StrEnum):
    """What a key signs with."""

    ED25519 = "ed25519"
    """Ed25519 (RFC 8032): 64 bytes."""
    ES256 = "es256"
    """ECDSA on P-256 over SHA-256: a DER signature (RFC 3279, 2.2.3)."""


LONGEST_BYTES = 4096
"""The longest message that every Ed25519 key signs, wherever it is kept; there is no empty one."""


class RemoteKey(Protocol):
    """One private key that never comes here. Its methods are called one after another."""

    def public_key(self) -> bytes:
        """Return the public half as DER (SubjectPublicKeyInfo), as the token has it now.

        Raises:
            ConfigError: there is no such key, or it is of another kind; the message says how to
                make it.
            UnavailableError: the token cannot be asked now.
        """
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of ``message``, the key's own algorithm doing any hashing.

        With Ed25519 a message has 1 to ``LONGEST_BYTES``; with ES256 it may have any length.

        Raises:
            ConfigError: as :meth:`public_key`, or no message of that length can be signed.
            UnavailableError: the token cannot be asked now; it may be tried again.
        """
        ...

    def make(self) -> bytes:
        """Make the key, so that it cannot be taken out, and return its public half as above.

        Raises:
            ConfigError: there is such a key already, or the token does not make one.
            UnavailableError: the token cannot be asked now.
        """
        ...


class KeyProvider(Protocol):
    """What an entry point of the group ``remit.key_providers`` names; its name is the scheme."""

    def __call__(self, uri: str, algorithm: Algorithm) -> RemoteKey:
        """Read a URI, without contacting anything.

        Raises:
            ConfigError: the URI is not one of ours; the message holds no secret of it.
        """
        ...
