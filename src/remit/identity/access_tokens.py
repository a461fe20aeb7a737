"""Signs tokens for other resource servers, under the keys that Remit's JWKS publishes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remit.identity.trust_domain import TrustDomain
from remit.model.errors import InputError
from remit.model.subject import SpiffeId


class IssuerSigner:
    """Implements ``credentials.port.Signer``: ``iss`` is the authority's own address."""

    def __init__(self, trust_domain: TrustDomain, issuer: str) -> None:
        self._trust_domain = trust_domain
        self.issuer = issuer

    def sign_jwt(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        """Return a compact JWS of the claims and ``iss``, ES256 (RFC 7519)."""
        return self._trust_domain.sign({**claims, "iss": self.issuer}, typ=typ)

    def sign_svid(self, path: str, audience: str, *, seconds: int, jti: str) -> str:
        """Return a JWT-SVID of a part of the house, for one audience.

        Args:
            path: the identity below the trust domain, as ``/broker/login``; never an agent's.
            audience: the one who may accept it.
            seconds: how long it is valid.
            jti: a name for it, so that a server can see that it is used once.

        Raises:
            InputError: the path is an agent's, or no path.
        """
        if not path.startswith("/broker/"):
            raise InputError(f"`{path}` is no identity of the house's own")
        who = SpiffeId.parse(f"{self._trust_domain.spiffe_id}{path}")
        return self._trust_domain.issue_jwt_svid(
            who, [audience], seconds=seconds, extra={"jti": jti}
        )
