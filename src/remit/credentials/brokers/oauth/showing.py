"""How Remit shows itself at an authorization server: by an assertion each time, never by a secret.

Signed by a key of its own that is registered there, by Remit as an issuer that is trusted there (RFC
7523 section 2.2 both), or a JWT-SVID of Remit's trust domain, whose bundle is known there
(draft-ietf-oauth-spiffe-client-auth-02 section 3).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from remit.credentials.brokers.oauth.key import ClientKey
from remit.credentials.brokers.oauth.options import Options
from remit.credentials.port import Surroundings
from remit.model.errors import ConfigError

ASSERTION_SECONDS = 60
_JWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SVID = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"


@runtime_checkable
class Vouching(Protocol):
    """A signer that has a trust domain of SPIFFE's, and gives parts of the house an identity in it."""

    def sign_svid(self, path: str, audience: str, *, seconds: int, jti: str) -> str:
        """Return a JWT-SVID of the identity below the trust domain, for one audience."""
        ...


class Client:
    """Remit as one client of one server."""

    def __init__(
        self, name: str, options: Options, surroundings: Surroundings, clock: Callable[[], datetime]
    ) -> None:
        """Make the client's key where it has one and there is none yet.

        Raises:
            ConfigError: the key cannot be used, or there is no trust domain to take an SVID from.
        """
        self._options = options
        self._signer = surroundings.signer
        self._clock = clock
        self._path = f"/broker/{name}"
        self._key = None
        if options.client_auth == "private_key_jwt":
            given = options.key_file
            own = surroundings.state / "brokers" / name / "client.key"
            self._key = ClientKey(surroundings.path(given) if given else own, options.alg)
        if options.client_auth == "spiffe" and not isinstance(self._signer, Vouching):
            raise ConfigError("there is no trust domain here to take an SVID from")

    def fields(self) -> list[tuple[str, str]]:
        """Return who asks: an assertion for this server alone, made for this one request."""
        options = self._options
        kind, assertion = _JWT, self._assertion(options.assertion_audience or options.issuer)
        if options.client_auth == "spiffe":
            kind = _SVID
        return [
            ("client_id", options.client_id),
            ("client_assertion_type", kind),
            ("client_assertion", assertion),
        ]

    def _assertion(self, audience: str) -> str:
        options, once = self._options, self.once()
        if options.client_auth == "spiffe" and isinstance(self._signer, Vouching):
            return self._signer.sign_svid(
                self._path, audience, seconds=ASSERTION_SECONDS, jti=once["jti"]
            )
        claims: Mapping[str, Any] = {"sub": options.client_id, "aud": audience, **once}
        if self._key is None:
            return self._signer.sign_jwt(claims)
        return self._key.sign({"iss": options.client_id, **claims})

    def once(self) -> dict[str, Any]:
        """Return the claims of what is good for a minute, and once (RFC 7523 section 3)."""
        now = int(self._clock().timestamp())
        return {"iat": now, "exp": now + ASSERTION_SECONDS, "jti": secrets.token_urlsafe(16)}
