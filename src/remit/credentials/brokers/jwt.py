"""Broker `jwt`: an access token signed by Remit itself (RFC 9068), for one audience and one task.

Any resource server that trusts an OpenID issuer can take it: the keys are published as a JWKS. It
says in ``authorization_details`` (RFC 9396) which call it is for. Where the resource introspects
tokens (RFC 7662), it is revoked at once, for the answer is Remit's; elsewhere it can only expire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from remit.credentials.port import Census, Order, Revocation, Surroundings, Traits
from remit.credentials.tables import read_table
from remit.model.errors import ConfigError
from remit.model.lease import Credential, Lease
from remit.proof.dpop import ProofKey

TOKEN_TYP = "at+jwt"  # noqa: S105 - the token's type (RFC 9068 section 2.1)
DETAILS_TYPE = "dev.remit/call"
"""The ``type`` of the authorization details: which target, which action, which arguments."""


class _Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    audience: str
    bound: Literal["none", "dpop"] = "none"
    introspected: bool = False


class _Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scope: tuple[str, ...] | str = ()
    claims: dict[str, Any] = {}


_RESERVED = frozenset(
    {
        *("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope"),
        *("act", "cnf", "authorization_details", "task"),
    }
)


class JwtBroker:
    """Mints under the authority's own key: there is no target to contact."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        """Read the options.

        Raises:
            ConfigError: an option is unknown, missing or makes no sense.
        """
        self._options = read_table(options, _Options, f"`[broker.{name}]`")
        if not self._options.audience.strip():
            raise ConfigError(f"`[broker.{name}]`: `audience` is empty: anybody would be meant")
        self._signer = surroundings.signer
        self._clock = surroundings.clock
        self._installation = surroundings.installation
        self._active: set[str] = set()

    @property
    def traits(self) -> Traits:
        """At once where the resource asks us about every token, else by running out."""
        if self._options.introspected:
            return Traits(revocation="immediate", confirms=True, lists=True)
        return Traits(revocation="at_expiry", confirms=False, lists=False)

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a binding's grant.

        Raises:
            ConfigError: an unknown key, a wrong type, or a claim that is not the operator's to set.
        """
        wanted = read_table(grant, _Grant)
        if taken := sorted(wanted.claims.keys() & _RESERVED):
            raise ConfigError(f"`claims` may not set `{taken[0]}`: that is remit's word")

    async def issue(self, order: Order) -> Credential:
        """Sign a token for one call or task (RFC 9068 section 2.2)."""
        self.check(order.grant)
        grant, lease, now = read_table(order.grant, _Grant), order.lease, self._clock()
        scope = grant.scope if isinstance(grant.scope, str) else " ".join(grant.scope)
        key = ProofKey.generate(lambda: self._clock().timestamp())
        bound = self._options.bound == "dpop"
        claims: dict[str, Any] = {
            **grant.claims,
            "sub": order.on_behalf_of,
            "act": {"sub": order.workload},
            "client_id": order.workload,
            "aud": self._options.audience,
            "iat": int(now.timestamp()),
            "exp": int(lease.expires_at.timestamp()),
            "jti": lease.handle,
            "task": lease.task,
        }
        if scope:
            claims["scope"] = scope
        if order.call is not None:
            claims["authorization_details"] = [
                {
                    "type": DETAILS_TYPE,
                    "locations": [self._options.audience],
                    "actions": [order.call.action],
                    "identifier": order.call.target,
                    "call_digest": order.call.digest,
                }
            ]
        if bound:
            claims["cnf"] = {"jkt": key.thumbprint}
        token = self._signer.sign_jwt(claims, typ=TOKEN_TYP)
        self._active.add(lease.handle)
        return Credential(
            values={"token": token},
            secrets=(token,),
            prove=key.prove if bound else None,
            expires_at=lease.expires_at,
        )

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Say no to whoever introspects it from now on; or say until when it lives."""
        del keep
        self._active.discard(lease.handle)
        if self._options.introspected:
            return Revocation(confirmed=True)
        if lease.expires_at > self._clock():
            return Revocation(
                confirmed=False,
                until=lease.expires_at,
                detail="the resource reads the token offline: it can only run out",
            )
        return Revocation(confirmed=False)

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Say which tokens a resource would take now."""
        if self._options.introspected:
            return Census(alive=frozenset(self._active), complete=True)
        now = self._clock()
        unexpired = frozenset(
            lease.handle for lease in leases if lease.issued_at and lease.expires_at > now
        )
        return Census(alive=unexpired, complete=False)

    def active(self, handle: str) -> bool:
        """Whether a token of this name is to be taken (RFC 7662 section 2.2).

        Held in memory: after a restart nobody holds the tokens of the last run, and none is.
        """
        return handle in self._active

    async def close(self) -> None:
        """Nothing is open."""
