"""Broker `oauth`: an access token of an external authorization server, for one call or task.

By client credentials, or in exchange for a token that Remit signs about the person and the agent
(RFC 8693, or RFC 7523 section 2.1). Remit shows itself with an assertion (RFC 7523 section 2.2): no
secret is shared. The token is revoked (RFC 7009), and the server asked about it (RFC 7662).

An answer of "not active" confirms nothing by itself: a server also gives it to a client that it does
not tell about a token. So the server is asked at the mint already, and only one that called the
token active then is believed when it no longer does.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from remit.credentials.brokers.oauth.options import JWT_BEARER, TOKEN_EXCHANGE, check_grant, fields
from remit.credentials.brokers.oauth.options import read_options as _read_options
from remit.credentials.brokers.oauth.server import RefusedError, Server
from remit.credentials.brokers.oauth.showing import Client
from remit.credentials.port import Census, Order, Revocation, Surroundings, Traits
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease
from remit.proof.dpop import ProofKey

_JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
_LANDING = timedelta(seconds=60)
"""How long after its lease was written down a mint may still be carried out by a slow server."""
_MOST_TOKEN = 16_384
_REQUESTS = 5
"""Metadata (two places), the token, once more with a nonce, and a question about it."""


class _Keep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a revocation needs: the tokens, and whether the server tells us about them."""

    token: str
    refresh: str | None = None
    told: bool = False
    until: datetime | None = None


class OAuthBroker:
    """Mints at one authorization server; docs/brokers/oauth.md has its options and grants."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        """Read the options, and make the client's key where there is none.

        Raises:
            ConfigError: an option is wrong, or the key cannot be used.
        """
        self._options = wanted = _read_options(name, options)
        self._clock = surroundings.clock
        self._signer = surroundings.signer
        self._longest = timedelta(seconds=wanted.longest_seconds)
        self._seconds = _REQUESTS * wanted.timeout_seconds
        try:
            tls = None
            if wanted.ca_file is not None:
                tls = ssl.create_default_context(cafile=surroundings.path(wanted.ca_file))
            self._client = Client(name, wanted, surroundings, self._clock)
        except OSError as error:
            raise ConfigError(f"`[broker.{name}]`: `ca_file` cannot be read") from error
        except ConfigError as error:
            raise ConfigError(f"`[broker.{name}]`: {error}") from error
        self._server = Server(
            wanted.issuer,
            http=surroundings.http,
            clock=surroundings.clock,
            timeout_seconds=wanted.timeout_seconds,
            tls=tls,
        )
        self._since = surroundings.clock()
        self._asked: dict[str, datetime] = {}
        self._mints: dict[str, asyncio.Task[Credential]] = {}

    @property
    def traits(self) -> Traits:
        """As the options say: the server takes tokens back, and tells about them, or not."""
        immediate = self._options.revocation == "immediate"
        return Traits(
            revocation=self._options.revocation,
            confirms=immediate and self._options.introspect,
            lists=False,
        )

    @property
    def bound(self) -> Literal["none", "dpop"]:
        """What whoever uses its tokens has to show beside them."""
        return self._options.bound

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a binding's grant.

        Raises:
            ConfigError: it is not understood.
        """
        check_grant(grant)

    async def issue(self, order: Order) -> Credential:
        """Ask for a token.

        Raises:
            NotMintedError: the server was not reached or refused, or the grant makes no sense.
            BrokerError: the server failed, or gave what cannot be used; that is revoked.
        """
        handle = order.lease.handle
        work = self._mints[handle] = asyncio.create_task(self._mint(order))
        # Cut short, it is waited for by the revocation of its lease, which ends what it brought.
        credential = await asyncio.shield(_watched(work))
        self._mints.pop(handle, None)
        return credential

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Revoke the lease's tokens and ask the server about them.

        Raises:
            BrokerError: the server failed, or the lease's mint is still under way.
        """
        kept = await self._kept(lease, keep)
        if kept is None:
            return self._owned_up(lease)
        if kept.until is not None and kept.until <= self._clock():
            self._asked.pop(lease.handle, None)
            return await self._after_expiry(kept)
        if self._options.revocation == "at_expiry":
            return Revocation(
                confirmed=False,
                until=kept.until,
                detail="the authorization server does not take tokens back: it can only run out",
            )
        confirmed = await self._end(kept)
        self._asked.pop(lease.handle, None)
        if confirmed or not self._options.introspect:
            return Revocation(confirmed=confirmed)
        return Revocation(
            confirmed=False,
            detail="revoked; the authorization server tells this client nothing about the token, "
            "so that its word could not be had",
        )

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Name the leases whose tokens may live: the server can be asked by a token alone."""
        now = self._clock()
        perhaps = frozenset(
            lease.handle
            for lease in leases
            if lease.issued_at is not None and lease.expires_at > now
        )
        return Census(alive=frozenset(), complete=False, unasked=perhaps)

    async def close(self) -> None:
        """Let go of mints that nobody waits for."""
        for work in self._mints.values():
            work.cancel()
        await asyncio.gather(*self._mints.values(), return_exceptions=True)

    async def _mint(self, order: Order) -> Credential:
        lease, options = order.lease, self._options
        try:
            wanted = fields(order.grant)
        except ConfigError as error:
            raise NotMintedError(f"oauth: the grant, filled in: {error}") from error
        places = await self._server.metadata()
        if options.revocation == "immediate" and places.revocation is None:
            raise NotMintedError(
                f"oauth: `{options.issuer}` has no revocation endpoint: say "
                '`revocation = "at_expiry"` if that is accepted'
            )
        if options.introspect and options.revocation == "immediate" and not places.introspection:
            raise NotMintedError(
                f"oauth: `{options.issuer}` has no introspection endpoint: say "
                "`introspect = false` if an unconfirmed revocation is accepted"
            )
        if lease.expires_at <= self._clock():
            raise NotMintedError("oauth: no time is left to the lease")
        key = None
        if options.bound == "dpop":
            key = ProofKey.generate(lambda: self._clock().timestamp())
        self._asked[lease.handle] = self._clock() + self._longest + _LANDING
        try:
            said = await self._server.post(
                "a token", places.token, lambda: [*self._request(order), *wanted], key
            )
        except NotMintedError:
            self._asked.pop(lease.handle, None)
            raise
        return await self._taken(said, key)

    async def _taken(self, said: Mapping[str, Any], key: ProofKey | None) -> Credential:
        token, refresh = _token(said, "access_token"), _token(said, "refresh_token")
        if token is None:
            raise BrokerError("oauth: the server's answer holds no token that can be used")
        kept = _Keep(token=token, refresh=refresh)
        try:
            seconds = self._lifetime(said)
            self._require_kind(said)
            told = False
            if self._options.introspect and self._options.revocation == "immediate":
                told = await self._active(token)
        except BaseException:
            if self._options.revocation == "immediate":
                await asyncio.shield(self._end(kept))
            raise
        # The server counts whole seconds, and may have rounded what is left of them down.
        until = self._clock() + timedelta(seconds=seconds + 1)
        kept = msgspec.structs.replace(kept, told=told, until=until)
        return Credential(
            values={"token": token},
            secrets=(token,),  # a refresh token is kept sealed, and goes nowhere else
            keep=msgspec.json.encode(kept).decode(),
            expires_at=until,
            prove=key.prove if key is not None else None,
        )

    def _lifetime(self, said: Mapping[str, Any]) -> int:
        """Return how long a token lives: RFC 6749 section 5.1 only recommends that the server says.

        Raises:
            BrokerError: longer than `longest_seconds`, by which lost tokens are owned up to.
        """
        longest = self._options.longest_seconds
        seconds = said.get("expires_in", longest)
        if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit():
            seconds = int(seconds[:10])
        if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds <= 0:
            raise BrokerError("oauth: the server's answer has an `expires_in` that is no time")
        if seconds > longest:
            raise BrokerError(
                f"oauth: the server's tokens live {seconds} seconds: shorten that there, or set "
                f"`longest_seconds`, which is {longest}"
            )
        return seconds

    def _require_kind(self, said: Mapping[str, Any]) -> None:
        kind = str(said.get("token_type", "")).lower()
        wanted = {"dpop"} if self._options.bound == "dpop" else {"bearer"}
        if self._options.requested_token_type is not None:
            wanted.add("n_a")
        if kind not in wanted:
            raise BrokerError(
                f"oauth: the server gave a token that is no `{min(wanted)}` token: look at `bound`, "
                "and at what the client is registered for"
            )

    async def _kept(self, lease: Lease, keep: str | None) -> _Keep | None:
        work = self._mints.get(lease.handle)
        if work is not None:
            done, _ = await asyncio.wait({work}, timeout=self._seconds)
            if not done:
                raise BrokerError("oauth: the mint of this lease is still under way")
            self._mints.pop(lease.handle, None)
            if not work.cancelled() and work.exception() is None:
                keep = keep or work.result().keep
        return None if keep is None else msgspec.json.decode(keep, type=_Keep)

    def _owned_up(self, lease: Lease) -> Revocation:
        """Say what is true of a mint whose answer nobody heard: tokens have no name of ours."""
        now = self._clock()
        if lease.reserved_at >= self._since and lease.handle not in self._asked:
            return Revocation(
                confirmed=True
            )  # this very run never asked for a token, or was refused
        until = self._asked.get(lease.handle, lease.reserved_at + self._longest + _LANDING)
        if until <= now:
            self._asked.pop(lease.handle, None)
            return Revocation(confirmed=False, detail="a token would have run out by now")
        return Revocation(
            confirmed=False,
            until=until,
            detail="its mint was never answered, and the server finds tokens by themselves alone: "
            "one may live until then, which nobody holds",
        )

    async def _after_expiry(self, kept: _Keep) -> Revocation:
        if not self.traits.confirms or not kept.told:
            return Revocation(confirmed=False, detail="the token has run out by now")
        return Revocation(confirmed=not await self._active(kept.token))

    async def _end(self, kept: _Keep) -> bool:
        """Revoke; return whether a server that tells about this token says that it is over."""
        places = await self._server.metadata(of_any_age=True)
        if places.revocation is None:
            raise BrokerError(
                f"oauth: `{self._options.issuer}` has no revocation endpoint any more"
            )
        for hint, token in (("refresh_token", kept.refresh), ("access_token", kept.token)):
            if token is not None:
                await self._ask("a revocation", places.revocation, token, hint)
        if not self._options.introspect or not kept.told:
            return False
        if await self._active(kept.token):
            raise BrokerError("oauth: the token is active still, after the server revoked it")
        return True

    async def _active(self, token: str) -> bool:
        places = await self._server.metadata(of_any_age=True)
        if places.introspection is None:
            raise BrokerError(f"oauth: `{self._options.issuer}` has no introspection endpoint")
        said = await self._ask("a question about a token", places.introspection, token)
        active = said.get("active")
        if not isinstance(active, bool):
            raise BrokerError("oauth: the server does not say whether the token is active")
        return active

    async def _ask(
        self, what: str, url: str, token: str, hint: str = "access_token"
    ) -> Mapping[str, Any]:
        try:
            return await self._server.post(
                what,
                url,
                lambda: [("token", token), ("token_type_hint", hint), *self._client.fields()],
            )
        except RefusedError as error:
            # A token that is over is no error (RFC 7009 section 2.2): whatever is one, is.
            raise BrokerError(str(error)) from error

    def _request(self, order: Order) -> list[tuple[str, str]]:
        options = self._options
        form = [*options.parameters.items(), *self._client.fields()]
        if options.grant == "client_credentials":
            return [*form, ("grant_type", "client_credentials")]
        if options.grant == "jwt_bearer":
            return [*form, ("grant_type", JWT_BEARER), ("assertion", self._subject(order))]
        form += [
            ("grant_type", TOKEN_EXCHANGE),
            ("subject_token", self._subject(order)),
            ("subject_token_type", _JWT_TYPE),
        ]
        if options.actor_token:
            form += [
                ("actor_token", self._about(order.workload, order)),
                ("actor_token_type", _JWT_TYPE),
            ]
        if options.requested_token_type is not None:
            form.append(("requested_token_type", options.requested_token_type))
        return form

    def _subject(self, order: Order) -> str:
        """Return what Remit says of the person, with the agent that acts (RFC 8693 section 4.1)."""
        return self._about(order.on_behalf_of, order, act={"sub": order.workload})

    def _about(self, subject: str, order: Order, **claims: Any) -> str:
        return self._signer.sign_jwt(
            {
                **self._options.subject_claims,
                **claims,
                "sub": subject,
                "aud": self._options.subject_audience or self._options.issuer,
                "task": order.lease.task,
                **self._client.once(),
            }
        )


def _token(said: Mapping[str, Any], name: str) -> str | None:
    found = said.get(name)
    fits = isinstance(found, str) and 0 < len(found) <= _MOST_TOKEN
    return str(found) if fits and str(found).isascii() and str(found).isprintable() else None


def _watched(work: asyncio.Task[Credential]) -> asyncio.Task[Credential]:
    """Return the work, whose failure nobody has to look at."""
    work.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return work
