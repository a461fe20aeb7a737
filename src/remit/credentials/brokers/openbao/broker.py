"""Tokens and dynamic secrets of OpenBao, or of Vault: one child token a lease, and what it read.

OpenBao chooses the names, so each lease gets a token of its own whose metadata says which lease it
is, and a secret is read *with that token*: revoking the token by its accessor ends everything
below it. The order of one mint is what a crash is measured against: token, note of its accessor,
secret, note of its lease, answer.

A mint that its caller no longer waits for is not cut off within a request, whose answer alone
names what was made: it goes on to that answer and ends what it made itself. A revocation waits for
a mint of its lease that is under way before it says anything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remit.credentials.brokers.openbao.api import Api
from remit.credentials.brokers.openbao.memo import Memo, Notes, parse_memo
from remit.credentials.brokers.openbao.minting import Minter
from remit.credentials.brokers.openbao.options import check_grant, read_grant, read_options
from remit.credentials.brokers.openbao.standing import Standing
from remit.credentials.brokers.openbao.survey import survey
from remit.credentials.port import Census, Finding, Order, Revocation, Surroundings, Traits
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease

_REQUESTS = 4
"""A mint or a revocation makes at most so many requests of ``timeout_seconds`` each."""
_SCAN_SECONDS = 45.0
_MOST_REMEMBERED = 10_000
"""Leases that certainly have nothing: their revocation has nobody to ask."""


@dataclass(slots=True, eq=False)
class _Mint:
    """A mint under way; ``wanted`` is over once nobody will use what it makes."""

    begun: bool = False
    wanted: bool = True
    work: asyncio.Task[Credential] | None = None

    def give_up(self) -> None:
        """Have it end what it makes; where it waits for its turn, it never begins."""
        self.wanted = False
        if not self.begun and self.work is not None:
            self.work.cancel()

    def require_wanted(self) -> None:
        """Raise where nobody waits for the mint any more."""
        if not self.wanted:
            raise BrokerError("openbao: the mint was given up")


class OpenBaoBroker:
    """Mints at one OpenBao; docs/brokers/openbao.md has its options and grants."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        self._options = read_options(name, options)
        self._clock = surroundings.clock
        self._installation = surroundings.installation
        self._api = Api(f"`[broker.{name}]`", self._options, surroundings.path, surroundings.signer)
        self._standing = Standing(self._api)
        self._notes = Notes(surroundings.state / "brokers" / name)
        self._minter = Minter(
            self._api,
            self._standing,
            self._notes,
            token_role=self._options.token_role,
            clock=self._clock,
        )
        self._seconds = _REQUESTS * self._options.timeout_seconds
        # A mint that hangs, or a long listing, must not keep a revocation waiting.
        self._mints = asyncio.Semaphore(self._options.connections)
        self._revocations = asyncio.Semaphore(self._options.connections)
        self._listings = asyncio.Semaphore(1)
        self._minting: dict[str, _Mint] = {}
        self._nothing: dict[str, None] = {}
        self._closed = False

    @property
    def traits(self) -> Traits:
        """It takes back at once and can be asked; whether it may list is configured."""
        return Traits(revocation="immediate", confirms=True, lists=self._options.list_accessors)

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a binding's grant.

        Raises:
            ConfigError: it is not understood.
        """
        check_grant(grant)

    async def issue(self, order: Order) -> Credential:
        """Make a token of this lease, and read its secret with it.

        Raises:
            NotMintedError: OpenBao was not reached, refused the token, or the grant makes no sense.
            BrokerError: OpenBao failed, or gave something that nobody could take back.
        """
        handle, mint = order.lease.handle, _Mint()
        work = mint.work = asyncio.create_task(self._mint_in_turn(order, mint))
        self._minting[handle] = mint
        work.add_done_callback(lambda done: self._minted(handle, mint, done))
        try:
            await asyncio.wait({work}, timeout=self._seconds)
        finally:
            if not work.done():
                mint.give_up()
        if work.done() and not work.cancelled():
            return work.result()
        if mint.begun:
            raise BrokerError(f"openbao did not mint within {self._seconds:g} seconds")
        over = work.done()
        why = "the lease ended before its mint began" if over else "every connection is busy"
        raise NotMintedError(f"openbao: {why}")

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Revoke the lease's token and its secret's lease, and look whether both are gone.

        Raises:
            BrokerError: OpenBao failed, or its mint is still under way.
        """
        del keep
        await self._minted_or_given_up(lease.handle)
        if lease.handle in self._nothing:
            return Revocation(confirmed=False, detail="nothing was minted")
        memo = parse_memo(lease.memo) or self._notes.find(lease.handle)
        if memo is None and not self._options.list_accessors:
            return self._owned_up(lease)
        if memo is None:
            accessors = await self._listed()
            accessor = accessors.get(lease.handle)
            if accessor is None:
                return Revocation(confirmed=True)
            await self._end(Memo(accessor=accessor))
            return Revocation(
                confirmed=False,
                detail="its token was found and revoked; a secret that was read with it is revoked "
                "by openbao, which could not be asked about it: its name is not known",
            )
        await self._end(memo)
        self._notes.forget(lease.handle)
        return self._ended(memo)

    async def census(self, leases: Sequence[Lease]) -> Census:
        """List every token of this installation, or ask about each lease's.

        Raises:
            BrokerError: OpenBao could not be asked.
        """
        memos = {
            lease.handle: parse_memo(lease.memo) or self._notes.find(lease.handle)
            for lease in leases
        }
        known = {handle: memo for handle, memo in memos.items() if memo is not None}
        alive: set[str] = set()
        lists = self._options.list_accessors
        if lists:
            ours = f"{self._installation}-"
            alive = {handle for handle in await self._listed() if handle.startswith(ours)}
        async with self._turn(self._listings, self._seconds):
            alive |= await self._standing.among(
                {handle: memo for handle, memo in known.items() if handle not in alive}
            )
        unasked = frozenset() if lists else frozenset(memos.keys() - known.keys())
        return Census(alive=frozenset(alive), complete=lists, unasked=unasked)

    async def survey(self) -> Sequence[Finding]:
        """Ask what Remit's own token may do, or may not, and how its leases' tokens stand.

        Raises:
            BrokerError: OpenBao could not be asked.
        """
        async with self._turn(self._listings, _SCAN_SECONDS):
            return await survey(self._api, self._standing, self._options, self._installation)

    async def close(self) -> None:
        """Let mints under way end what they made, log out, and let go of connections."""
        if self._closed:
            return
        self._closed = True
        mints = list(self._minting.values())
        for mint in mints:
            mint.give_up()
        works = [mint.work for mint in mints if mint.work is not None]
        if works:
            await asyncio.wait(works, timeout=self._seconds)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        await self._api.close()

    async def _minted_or_given_up(self, handle: str) -> None:
        mint = self._minting.get(handle)
        if mint is None or mint.work is None:
            return
        mint.give_up()
        done, _ = await asyncio.wait({mint.work}, timeout=self._seconds)
        if not done:
            raise BrokerError("openbao: the mint of this lease is still under way")

    def _minted(self, handle: str, mint: _Mint, done: asyncio.Task[Credential]) -> None:
        """Forget a mint, and remember one that certainly made nothing."""
        self._minting.pop(handle, None)
        failure = None if done.cancelled() else done.exception()
        if isinstance(failure, NotMintedError) or not mint.begun:
            self._nothing[handle] = None
            if len(self._nothing) > _MOST_REMEMBERED:
                del self._nothing[next(iter(self._nothing))]

    async def _listed(self) -> Mapping[str, str]:
        async with self._turn(self._listings, _SCAN_SECONDS):
            return await self._standing.by_handle()

    async def _end(self, memo: Memo) -> None:
        async with self._turn(self._revocations, self._seconds):
            await self._standing.end(memo)

    @contextlib.asynccontextmanager
    async def _turn(self, turns: asyncio.Semaphore, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds), turns:
                yield
        except TimeoutError:
            raise BrokerError(f"openbao did not answer within {seconds:g} seconds") from None

    def _owned_up(self, lease: Lease) -> Revocation:
        if lease.expires_at <= self._clock():
            return Revocation(confirmed=False, detail="its token would have run out by now")
        return Revocation(
            confirmed=False,
            until=lease.expires_at,
            detail="its mint was never answered, and openbao may not be asked to list: a token may "
            "live until then, which nobody holds",
        )

    def _ended(self, memo: Memo) -> Revocation:
        if not memo.outlives:
            return Revocation(confirmed=True)
        if memo.until is None:
            return Revocation(confirmed=False, detail="the secret itself lives on until rotated")
        if memo.until > self._clock():
            return Revocation(
                confirmed=False,
                until=memo.until,
                detail="openbao keeps no lease of this secret: it runs out by itself",
            )
        return Revocation(confirmed=False, detail="the secret has run out by now")

    async def _mint_in_turn(self, order: Order, mint: _Mint) -> Credential:
        try:
            grant = read_grant(order.grant)
        except ConfigError as error:
            raise NotMintedError(f"openbao: the grant, filled in: {error}") from error
        async with self._mints:
            mint.begun = True
            return await self._minter.mint(order, grant, mint.require_wanted)
