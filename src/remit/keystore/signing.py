"""A key on P-256 that is kept elsewhere, as an object that certificate builders sign with.

It is what a builder needs of a private key, and refuses everything else: the key itself is not here.
"""

from __future__ import annotations

from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    EllipticCurveSignatureAlgorithm,
)

from remit.keystore.kept import KeptKey
from remit.model.errors import BrokerError, ConfigError, UnavailableError


class AuthorityKey(EllipticCurvePrivateKey):
    """Signs with a :class:`KeptKey`. It may block, in bounds: sign on a thread."""

    def __init__(self, key: KeptKey) -> None:
        public = key.public_key
        if not isinstance(public, EllipticCurvePublicKey):
            raise ConfigError("an authority signs with a key on P-256")
        self._key = key
        self._public = public

    def sign(
        self,
        data: Any,
        signature_algorithm: EllipticCurveSignatureAlgorithm,
    ) -> bytes:
        """Return a signature in DER, of SHA-256 alone.

        Raises:
            BrokerError: the key does not sign now; nothing was signed.
        """
        if not isinstance(signature_algorithm, ECDSA) or not isinstance(
            signature_algorithm.algorithm, hashes.SHA256
        ):
            raise UnsupportedAlgorithm("a key that is kept elsewhere signs SHA-256 with ECDSA")
        try:
            return self._key.sign(bytes(data))
        except UnavailableError as error:
            raise BrokerError(f"nothing can be signed: {error}") from error

    def public_key(self) -> EllipticCurvePublicKey:
        """Return the public half."""
        return self._public

    @property
    def curve(self) -> SECP256R1:
        """The curve."""
        return SECP256R1()

    @property
    def key_size(self) -> int:
        """In bits."""
        return self.curve.key_size

    def exchange(self, *_: Any) -> NoReturn:
        """Refuse: the key only signs."""
        raise UnsupportedAlgorithm("a key that is kept elsewhere only signs")

    def private_numbers(self) -> NoReturn:
        """Refuse: the key is not here."""
        raise UnsupportedAlgorithm("a key that is kept elsewhere cannot be taken out")

    def private_bytes(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the key is not here."""
        raise UnsupportedAlgorithm("a key that is kept elsewhere cannot be taken out")

    def __copy__(self) -> AuthorityKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AuthorityKey:
        return self
