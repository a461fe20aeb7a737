"""Tokens and dynamic secrets of OpenBao, or of Vault: one child token a lease, and what it read.

OpenBao chooses the names, so each lease gets a token of its own whose metadata says which lease it
is, and a secret is read *with that token*: revoking the token by its accessor ends everything
below it. The order of one mint is what a crash is measured against: token, note of its accessor,
secret, note of its lease, answer.

``hvac`` is synchronous, so it works in bounded pools of threads. A thread cannot be cancelled: a
mint that its caller no longer waits for is told so, and revokes what it made itself; a revocation
waits for a mint of its lease that is still under way before it says anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import hvac

from remit.credentials.brokers.openbao.api import Api, answers, document
from remit.credentials.brokers.openbao.memo import Memo, Notes, parse_memo
from remit.credentials.brokers.openbao.options import Grant, check_grant, read_grant, read_options
from remit.credentials.brokers.openbao.standing import Standing
from remit.credentials.port import Census, Order, Revocation, Surroundings, Traits
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease

T = TypeVar("T")

_REQUESTS = 4
"""A mint or a revocation makes at most so many requests of ``timeout_seconds`` each."""
_SCAN_SECONDS = 45.0
_MOST_REMEMBERED = 10_000
"""Leases that certainly have nothing: their revocation has nobody to ask."""
_GUARDED_LENGTH = 8
_PUBLIC = frozenset(
    [
        "accessor",
        "ca_chain",
        "certificate",
        "expiration",
        "issuing_ca",
        "lease_id",
        "not_before",
        "private_key_type",
        "public_key",
        "serial_number",
        "signed_key",
        "ttl",
        "username",
    ]
)
_UNFIT = re.compile(r"[^a-z0-9_]")


@dataclass(slots=True)
class _Mint:
    """A mint under way. ``given_up`` is set once nobody will use what it makes."""

    given_up: threading.Event = field(default_factory=threading.Event)
    work: Future[Credential] | None = None

    def require_wanted(self) -> None:
        """Raise where nobody waits for the mint any more."""
        if self.given_up.is_set():
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
        self._seconds = _REQUESTS * self._options.timeout_seconds
        # A mint that hangs, or a long listing, must not keep a revocation waiting.
        threads = self._options.connections
        self._minters = ThreadPoolExecutor(threads, f"openbao-{name}-mint")
        self._revokers = ThreadPoolExecutor(threads, f"openbao-{name}-revoke")
        self._lister = ThreadPoolExecutor(1, f"openbao-{name}-list")
        self._minting: dict[str, _Mint] = {}
        self._nothing: set[str] = set()
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
        try:
            return await self._issue(order)
        except NotMintedError:
            if len(self._nothing) < _MOST_REMEMBERED:
                self._nothing.add(order.lease.handle)
            raise

    async def _issue(self, order: Order) -> Credential:
        try:
            grant = read_grant(order.grant)
        except ConfigError as error:
            raise NotMintedError(f"openbao: the grant, filled in: {error}") from error
        handle, mint = order.lease.handle, _Mint()
        self._minting[handle] = mint
        work = mint.work = self._minters.submit(self._mint, order, grant, mint)
        work.add_done_callback(lambda _: self._minting.pop(handle, None))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(_watched(work))
        except TimeoutError:
            mint.given_up.set()
            if work.cancel():
                raise NotMintedError("openbao: every connection is busy") from None
            raise BrokerError(f"openbao did not mint within {self._seconds:g} seconds") from None
        except asyncio.CancelledError:
            if work.cancelled() and mint.given_up.is_set():
                raise NotMintedError("openbao: the lease ended before its mint began") from None
            mint.given_up.set()
            work.cancel()
            raise

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Revoke the lease's token and its secret's lease, and look whether both are gone.

        Raises:
            BrokerError: OpenBao failed, or its mint is still under way.
        """
        del keep
        if lease.handle in self._nothing:
            self._nothing.discard(lease.handle)
            return Revocation(confirmed=False, detail="nothing was minted")
        await self._minted_or_given_up(lease.handle)
        memo = parse_memo(lease.memo) or self._notes.find(lease.handle)
        if memo is None and not self._options.list_accessors:
            return self._owned_up(lease)
        if memo is None:
            accessors = await self._listed()
            accessor = accessors.get(lease.handle)
            if accessor is None:
                return Revocation(confirmed=True)
            await self._run(self._revokers, self._standing.end, Memo(accessor=accessor))
            return Revocation(
                confirmed=False,
                detail="its token was found and revoked; a secret that was read with it is revoked "
                "by openbao, which could not be asked about it: its name is not known",
            )
        await self._run(self._revokers, self._standing.end, memo)
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
        alive |= await self._run(
            self._lister, self._standing.among, {h: m for h, m in known.items() if h not in alive}
        )
        unasked = frozenset() if lists else frozenset(memos.keys() - known.keys())
        return Census(alive=frozenset(alive), complete=lists, unasked=unasked)

    async def close(self) -> None:
        """Log out where a login was made, and let go of threads and connections."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(BrokerError):
            await self._run(self._revokers, self._api.log_out)
        for pool in (self._minters, self._revokers, self._lister):
            pool.shutdown(wait=False, cancel_futures=True)
        self._api.close()

    async def _minted_or_given_up(self, handle: str) -> None:
        mint = self._minting.get(handle)
        if mint is None or mint.work is None:
            return
        mint.given_up.set()
        mint.work.cancel()
        done, _ = await asyncio.wait({_watched(mint.work)}, timeout=self._seconds)
        if not done:
            raise BrokerError("openbao: the mint of this lease is still under way")

    async def _listed(self) -> Mapping[str, str]:
        return await self._run(self._lister, self._standing.by_handle, seconds=_SCAN_SECONDS)

    async def _run(
        self,
        pool: ThreadPoolExecutor,
        work: Callable[..., T],
        *arguments: Any,
        seconds: float | None = None,
    ) -> T:
        limit = self._seconds if seconds is None else seconds
        running = pool.submit(work, *arguments)
        try:
            async with asyncio.timeout(limit):
                return await asyncio.shield(_watched(running))
        except TimeoutError:
            running.cancel()
            raise BrokerError(f"openbao did not answer within {limit:g} seconds") from None

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

    # What follows runs in a thread.

    def _mint(self, order: Order, grant: Grant, mint: _Mint) -> Credential:
        began = self._clock()
        seconds = int((order.lease.expires_at - began).total_seconds())
        if seconds < 1:
            raise NotMintedError("openbao: less than a second is left to the lease")
        token, memo, lives = self._token(order, grant, seconds)
        try:
            self._noted(order.lease.handle, memo)
            values = {"token": token, "accessor": memo.accessor}
            if grant.secret is not None:
                mint.require_wanted()
                fields, memo = self._secret(token, grant, memo, order)
                values |= fields
            mint.require_wanted()
        except BaseException:
            with contextlib.suppress(BrokerError):  # the note stands until a revocation is sure
                self._standing.end(self._notes.find(order.lease.handle) or memo)
            raise
        return Credential(
            values=values,
            secrets=(token, *(_secrets(values) - {token})),
            memo=memo.text(),
            expires_at=min(order.lease.expires_at, began + timedelta(seconds=lives)),
        )

    def _token(self, order: Order, grant: Grant, seconds: int) -> tuple[str, Memo, int]:
        lease = order.lease

        def create(client: hvac.Client) -> object:
            return client.auth.token.create(
                role_name=self._options.token_role,
                policies=list(grant.policies),
                meta={
                    "remit_lease": lease.handle,
                    "remit_task": lease.task,
                    "remit_workload": order.workload,
                    **({"remit_call": lease.call} if lease.call else {}),
                },
                no_default_policy="default" not in grant.policies,
                renewable=False,
                ttl=f"{seconds}s",
                explicit_max_ttl=f"{seconds}s",
                display_name=lease.handle,
                num_uses=grant.uses,
                wrap_ttl=f"{grant.wrap}s" if grant.wrap else None,
            )

        with answers("making a token", mints=True):
            answer = document(self._api.as_remit(create, lives=seconds), "making a token")
            if grant.wrap:
                wrapped = answer["wrap_info"]
                memo = Memo(accessor=wrapped["wrapped_accessor"], wrapping=wrapped["accessor"])
                return wrapped["token"], memo, min(seconds, wrapped["ttl"])
            auth = answer["auth"]
            return auth["client_token"], Memo(accessor=auth["accessor"]), auth["lease_duration"]

    def _secret(
        self, token: str, grant: Grant, memo: Memo, order: Order
    ) -> tuple[dict[str, str], Memo]:
        path, began = f"/v1/{grant.secret}", self._clock()
        seconds = max(1, int((order.lease.expires_at - began).total_seconds()))
        given: dict[str, Any] = dict(grant.parameters)
        if grant.send_ttl:
            given["ttl"] = f"{seconds}s"
        with answers(f"reading `{grant.secret}`"):
            adapter = self._api.with_token(token).adapter
            said = adapter.post(path, json=given) if given else adapter.get(path)
            answer = document(said, f"reading `{grant.secret}`")
            lease_id, data = answer["lease_id"], answer["data"]
            if not lease_id and set(data) == {"data", "metadata"}:
                data = data["data"]  # the second version of the kv engine wraps its values
            fields = _fields(data)
        if lease_id:
            memo = Memo(accessor=memo.accessor, lease_id=lease_id)
        elif grant.lives_on:
            until = began + timedelta(seconds=seconds) if grant.send_ttl else None
            memo = Memo(accessor=memo.accessor, outlives=True, until=until)
        else:
            raise BrokerError(
                f"openbao gave no lease with `{grant.secret}`, so nobody could take it back: have "
                "its engine give leases, or say `lives_on = true` if that is accepted"
            )
        self._noted(order.lease.handle, memo)
        return fields, memo

    def _noted(self, handle: str, memo: Memo) -> None:
        try:
            self._notes.keep(handle, memo)
        except OSError as error:
            raise BrokerError(f"the state folder cannot be written: {error.strerror}") from error


def _watched(work: Future[T]) -> asyncio.Future[T]:
    """Return the work as a future whose failure nobody has to look at."""
    watched = asyncio.wrap_future(work)
    watched.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return watched


def _fields(data: Mapping[str, Any]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in data.items():
        fit = _UNFIT.sub("_", str(name).lower())
        if fit in fields:
            raise BrokerError(f"openbao gave two fields that are both called `{{{fit}}}` here")
        if isinstance(value, str):
            fields[fit] = value
        elif isinstance(value, bool | int | float):
            fields[fit] = str(value).lower() if isinstance(value, bool) else str(value)
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            fields[fit] = "\n".join(value)
    return fields


def _secrets(values: Mapping[str, str]) -> frozenset[str]:
    return frozenset(
        value
        for name, value in values.items()
        if name not in _PUBLIC and len(value) >= _GUARDED_LENGTH
    )
