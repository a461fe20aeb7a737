"""Signs tokens for other resource servers, under the keys that Remit's JWKS publishes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remit.identity.trust_domain import TrustDomain


class IssuerSigner:
    """Implements ``credentials.port.Signer``: ``iss`` is the authority's own address."""

    def __init__(self, trust_domain: TrustDomain, issuer: str) -> None:
        self._trust_domain = trust_domain
        self.issuer = issuer

    def sign_jwt(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        """Return a compact JWS of the claims and ``iss``, ES256 (RFC 7519)."""
        return self._trust_domain.sign({**claims, "iss": self.issuer}, typ=typ)
