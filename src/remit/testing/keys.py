"""A provider's key in memory that can be away, hang or be exchanged, for tests of what uses one."""

from __future__ import annotations

import threading

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from remit.keystore.ports import Algorithm
from remit.model.errors import ConfigError, UnavailableError


class MemoryKey:
    """A :class:`remit.keystore.ports.RemoteKey`.

    ``away`` makes it one that cannot be asked, ``missing`` one that is not there, and ``error`` is
    raised as it is. While ``answers`` is not set, every question hangs. ``exchange`` puts another
    key in its place. ``asked`` counts the questions.
    """

    def __init__(self, algorithm: Algorithm = Algorithm.ED25519, *, missing: bool = False) -> None:
        self._algorithm = algorithm
        self.away = False
        self.missing = missing
        self.error: Exception | None = None
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()
        self.exchange()

    def exchange(self) -> None:
        """Put another key in its place, as a token of the same name has it."""
        self._key: Ed25519PrivateKey | EllipticCurvePrivateKey = (
            Ed25519PrivateKey.generate()
            if self._algorithm is Algorithm.ED25519
            else generate_private_key(SECP256R1())
        )

    def public_key(self) -> bytes:
        """Return the public half."""
        self._answer()
        return self._spki()

    def sign(self, message: bytes) -> bytes:
        """Return a signature."""
        self._answer()
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, ECDSA(hashes.SHA256()))

    def make(self) -> bytes:
        """Make the key, where it is missing."""
        if not self.missing:
            raise ConfigError("there is a key already; nothing was made")
        self.missing = False
        self._answer()
        return self._spki()

    def _spki(self) -> bytes:
        public = self._key.public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def _answer(self) -> None:
        self.asked += 1
        self.answers.wait()
        if self.error is not None:
            raise self.error
        if self.away:
            raise UnavailableError("there is no token")
        if self.missing:
            raise ConfigError("there is no key")
