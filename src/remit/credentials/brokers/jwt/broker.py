"""Broker `jwt`: an access token signed by Remit itself (RFC 9068), for one audience and one task.

Any resource server that trusts an OpenID issuer can take it: the keys are published as a JWKS. It
says in ``authorization_details`` (RFC 9396) which call it is for. Where the resource introspects
tokens (RFC 7662), it is revoked at once, for the answer is Remit's; elsewhere it can only expire.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from remit.credentials.brokers.jwt.binding import Bond, certified, proving
from remit.credentials.certificates.authority import AuthorityOptions, open_authority
from remit.credentials.port import Census, Order, Revocation, Surroundings, Traits
from remit.credentials.tables import read_table
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease

TOKEN_TYP = "at+jwt"  # noqa: S105 - the token's type (RFC 9068 section 2.1)
DETAILS_TYPE = "dev.remit/call"
"""The ``type`` of the authorization details: which target, which action, which arguments."""


class Options(AuthorityOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[broker.NAME]``; docs/brokers/jwt.md says what each is for."""

    audience: str
    bound: Literal["none", "dpop", "mtls"] = "none"
    introspected: bool = False
    resources: tuple[str, ...] = ()


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[upstream.NAME.credential.grant]``."""

    scope: tuple[str, ...] | str = ()
    claims: dict[str, Any] = {}


MAX_TOKEN_BYTES = 6144
"""A token has to fit into a header: servers read heads of 8 KiB."""
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")
_RESERVED = frozenset(
    {
        *("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope"),
        *("act", "may_act", "cnf", "authorization_details", "task", "active", "token_type"),
    }
)


class JwtBroker:
    """Mints under the authority's own key: there is no target to contact."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        """Read the options.

        Raises:
            ConfigError: an option is unknown, missing or makes no sense.
        """
        where = f"`[broker.{name}]`"
        self._options = said = read_table(options, Options, where)
        if not said.audience.strip():
            raise ConfigError(f"{where}: `audience` is empty: anybody would be meant")
        if said.resources and not said.introspected:
            raise ConfigError(
                f"{where}: `resources` are those who introspect: say `introspected = true`"
            )
        self._authority = None
        if said.bound == "mtls":
            self._authority = open_authority(said, name, where, surroundings)
        elif said.ca_key or said.ca_key_file or said.ca_cert_file:
            raise ConfigError(
                f'{where}: an authority signs certificates alone: say `bound = "mtls"`, or leave '
                "its key and certificate out"
            )
        self._signer = surroundings.signer
        self._clock = surroundings.clock
        self._installation = surroundings.installation
        self._active: dict[str, datetime] = {}

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
        wanted = read_table(grant, Grant)
        if taken := sorted(wanted.claims.keys() & _RESERVED):
            raise ConfigError(f"`claims` may not set `{taken[0]}`: that is remit's word")
        if isinstance(wanted.scope, str) and "{" in wanted.scope:
            # Filled in, it could not be told from several: an argument with a space in it is two.
            raise ConfigError("a `scope` with a reference in it has to be a list of scopes")

    async def issue(self, order: Order) -> Credential:
        """Sign a token for one call or task (RFC 9068 section 2.2).

        Raises:
            NotMintedError: the grant, filled in, makes no sense, no time is left to the lease, or the
                authority of its certificate cannot sign.
        """
        try:
            self.check(order.grant)
            grant = read_table(order.grant, Grant)
            scope = _scope(grant.scope)
        except ConfigError as error:
            raise NotMintedError(f"jwt: the grant, filled in: {error}") from error
        lease, now = order.lease, self._clock()
        if int(lease.expires_at.timestamp()) <= now.timestamp():
            raise NotMintedError("jwt: less than a second is left to the lease")
        bond = await self._bond(order)
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
        if bond.cnf:
            claims["cnf"] = dict(bond.cnf)
        token = self._signer.sign_jwt(claims, typ=TOKEN_TYP)
        if len(token) > MAX_TOKEN_BYTES:
            raise NotMintedError(
                f"jwt: the token would be longer than {MAX_TOKEN_BYTES} bytes: grant fewer claims"
            )
        self._active[lease.handle] = lease.expires_at
        return Credential(
            values={"token": token, **bond.values},
            secrets=(token, *bond.secrets),
            memo=bond.memo,
            prove=bond.prove,
            expires_at=lease.expires_at,
        )

    async def _bond(self, order: Order) -> Bond:
        if self._options.bound == "dpop":
            return proving(self._clock)
        if self._authority is None:
            return Bond()
        try:
            # A key that is kept elsewhere signs as slowly as it likes.
            return await asyncio.to_thread(certified, self._authority, order, self._clock())
        except BrokerError as error:
            raise NotMintedError(str(error)) from error

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Say no to whoever introspects it from now on; or say until when it lives."""
        del keep
        self._active.pop(lease.handle, None)
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
        now = self._clock()
        if self._options.introspected:
            alive = (handle for handle, until in self._active.items() if until > now)
            return Census(alive=frozenset(alive), complete=True)
        unexpired = frozenset(
            lease.handle for lease in leases if lease.issued_at and lease.expires_at > now
        )
        return Census(alive=unexpired, complete=False)

    def active(self, handle: str, asker: str) -> bool:
        """Whether a token of this name is to be taken (RFC 7662 section 2.2).

        Held in memory: after a restart nobody holds the tokens of the last run, and none is.
        Whoever is none of the ``resources``, where they are named, learns nothing (section 4).
        """
        if self._options.resources and asker not in self._options.resources:
            return False
        until = self._active.get(handle)
        return until is not None and until > self._clock()

    @property
    def bound(self) -> Literal["none", "dpop", "mtls"]:
        """What whoever uses its tokens has to show beside them."""
        return self._options.bound

    @property
    def audience(self) -> str:
        """The one audience of its tokens."""
        return self._options.audience

    async def close(self) -> None:
        """Nothing is open."""


def _scope(wanted: Sequence[str] | str) -> str:
    """Return the ``scope`` claim; each of a list is one scope-token (RFC 6749 section 3.3).

    Raises:
        ConfigError: one of them is none, as when a call's argument brought a space along.
    """
    scopes = wanted.split() if isinstance(wanted, str) else wanted
    for each in scopes:
        if not _SCOPE.match(each):
            raise ConfigError(f"`{each[:80]}` is not one scope")
    return " ".join(scopes)
