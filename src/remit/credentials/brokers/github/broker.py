"""Broker `github`: a token of a GitHub App's installation for each lease, narrowed and revoked.

GitHub chooses the token's name, which is the token itself, and lists none. So a mint is never cut
short: one whose caller has gone away runs to its end, and a revocation waits for it. Only a mint
whose answer is lost on the way, or with this process, is owned up to for the hour that it lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from remit.credentials.brokers.github.api import Api
from remit.credentials.brokers.github.options import (
    LEVELS,
    Grant,
    check_grant,
    read_grant,
    read_options,
)
from remit.credentials.port import Census, Order, Revocation, Surroundings, Traits
from remit.credentials.tables import secret_source
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease, LeaseState

_LIVES_SECONDS = 3600
"""Every installation token lives an hour; GitHub takes no other wish."""
_LATE_SECONDS = 120
_ASKED_AT_ONCE = 8


class GitHubBroker:
    """Mints at one installation; docs/brokers/github.md has its options and grants."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        """Read the options.

        Raises:
            ConfigError: an option is unknown, missing or makes no sense.
        """
        read = read_options(name, options)
        try:
            key = secret_source(
                "private_key", read.private_key, read.private_key_file, surroundings.path
            )
        except ConfigError as error:
            raise ConfigError(f"`[broker.{name}]`: {error}") from error
        self._clock = surroundings.clock
        self._api = Api(read, http=surroundings.http, clock=surroundings.clock, key=key)
        self._minting: dict[str, asyncio.Task[Credential]] = {}
        self._held: dict[str, str] = {}

    @property
    def traits(self) -> Traits:
        """A token revokes itself, and is asked afterwards; GitHub lists none."""
        return Traits(revocation="immediate", confirms=True, lists=False)

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a binding's grant.

        Raises:
            ConfigError: it is not understood.
        """
        check_grant(grant)

    async def issue(self, order: Order) -> Credential:
        """Make a token for the grant's repositories and permissions.

        Raises:
            NotMintedError: GitHub refused, was not reached, or the grant makes no sense filled in.
            BrokerError: GitHub failed, or gave more than was asked for.
        """
        try:
            grant = read_grant(order.grant)
        except ConfigError as error:
            raise NotMintedError(f"github: the grant, filled in: {error}") from error
        handle = order.lease.handle
        if order.lease.expires_at <= self._clock():
            raise NotMintedError("github: nothing is left of the lease")
        mint = self._minting[handle] = asyncio.create_task(self._mint(handle, grant))
        mint.add_done_callback(lambda done: self._minted(handle, done))
        return await asyncio.shield(mint)

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Have the token revoke itself, and look whether it is refused.

        Raises:
            BrokerError: GitHub failed, or still accepts the token.
        """
        mint = self._minting.get(lease.handle)
        if mint is not None:
            try:
                await asyncio.shield(mint)
            except NotMintedError:
                return Revocation(confirmed=True, detail="nothing was minted")
            except BrokerError:
                pass  # something may have been: the words below say until when
        token = keep or self._held.get(lease.handle)
        if token is None:
            return self._owned_up(lease)
        await self._api.revoke_token(token)
        if await self._api.accepts(token):
            raise BrokerError("github: a token that was revoked is still accepted")
        self._held.pop(lease.handle, None)
        return Revocation(confirmed=True)

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Ask with each token of this run whether it works; others cannot be asked about.

        Raises:
            BrokerError: GitHub could not be asked.
        """
        held = {
            each.handle: self._held[each.handle] for each in leases if each.handle in self._held
        }
        few = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def accepts(token: str) -> bool:
            async with few:
                return await self._api.accepts(token)

        answers = await asyncio.gather(*(accepts(token) for token in held.values()))
        alive = frozenset(handle for handle, works in zip(held, answers, strict=True) if works)
        now = self._clock()
        unasked = frozenset(
            each.handle
            for each in leases
            if each.handle not in held
            and each.issued_at is not None
            and each.state is not LeaseState.SETTLED
            and self._latest_end(each) > now
        )
        return Census(alive=alive, complete=False, unasked=unasked)

    async def close(self) -> None:
        """Wait for mints under way: their tokens would be nobody's."""
        await asyncio.gather(*self._minting.values(), return_exceptions=True)

    async def _mint(self, handle: str, grant: Grant) -> Credential:
        body: dict[str, Any] = {"permissions": grant.permissions}
        if grant.repositories:
            body["repositories"] = sorted(set(grant.repositories))
        elif grant.repository_ids:
            body["repository_ids"] = sorted(set(grant.repository_ids))
        answer = await self._api.make_token(body)
        token = answer.get("token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token or not token.isascii():
            raise BrokerError("github: a token was answered with something else")
        self._held[handle] = token
        try:
            expires_at = _narrow_enough(answer, grant)
        except (BrokerError, KeyError, TypeError, ValueError, AttributeError) as error:
            await self._api.revoke_token(token)
            self._held.pop(handle, None)
            said = error if isinstance(error, BrokerError) else "a token was answered with less"
            raise BrokerError(f"github: {said}; it was revoked") from None
        return Credential(
            values={"token": token, "username": "x-access-token"},
            secrets=(token,),
            keep=token,
            expires_at=expires_at,
        )

    def _minted(self, handle: str, done: asyncio.Task[Credential]) -> None:
        self._minting.pop(handle, None)
        if not done.cancelled():
            done.exception()  # whoever waited was told

    def _owned_up(self, lease: Lease) -> Revocation:
        until = self._latest_end(lease)
        if until <= self._clock():
            return Revocation(confirmed=False, detail="its token would have run out by now")
        return Revocation(
            confirmed=False,
            until=until,
            detail="the answer of its mint was lost, and github lists no tokens: one may live "
            "until then, which nobody holds",
        )

    @staticmethod
    def _latest_end(lease: Lease) -> datetime:
        if lease.state is LeaseState.UNKNOWN:
            return lease.expires_at  # what this said before
        began = lease.issued_at or lease.reserved_at + timedelta(seconds=_LATE_SECONDS)
        return began + timedelta(seconds=_LIVES_SECONDS)


def _narrow_enough(answer: Mapping[str, Any], grant: Grant) -> datetime:
    """Return the token's expiry, having looked at what GitHub says that it may do.

    Raises:
        BrokerError: more than was asked for.
    """
    for permission, level in answer["permissions"].items():
        wanted = grant.permissions.get(permission, "read" if permission == "metadata" else None)
        if wanted is None or LEVELS.index(level) > LEVELS.index(wanted):
            raise BrokerError(f"gave permission `{permission}`, which was not asked for")
    if not grant.all_repositories:
        if answer["repository_selection"] != "selected":
            raise BrokerError("gave every repository, which was not asked for")
        names = {name.lower() for name in grant.repositories}
        for each in answer.get("repositories", ()):
            if each["name"].lower() not in names and each["id"] not in grant.repository_ids:
                raise BrokerError("gave a repository that was not asked for")
    expires_at = datetime.fromisoformat(answer["expires_at"])
    if expires_at.tzinfo is None:
        raise ValueError
    return expires_at
