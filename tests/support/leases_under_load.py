"""Leases of a real target on a state folder: run under load to be killed, or swept afterwards.

Started as a program it waits for lines, a JSON :class:`Turn` each, and forks a process for each
line, which mints and settles until it is killed or done: a fork costs nothing, an interpreter with
everything loaded costs a second. Every credential that a broker answered with is written to a file
of the harness's own, so that it can be used again once the process is dead.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from evidence_house import House
from joserfc import jwt
from joserfc.jwk import ECKey
from lease_book import task_of

from remit.credentials.leases import Leases
from remit.credentials.port import (
    Binding,
    Broker,
    Census,
    Order,
    Revocation,
    Surroundings,
    Traits,
)
from remit.credentials.sealing import KeySeal
from remit.evidence.ledger import Ledger
from remit.model.call import CALL_TOOL, Call
from remit.model.decision import Decision, Effect
from remit.model.errors import RemitError
from remit.model.lease import Credential, Lease
from remit.plugins import load_broker
from remit.storage.sqlite.leases import SqliteLeases

WORKERS = 4
INSTALLATION = "remit-0badcafe"
MINTED = "minted"
SIGNED = "signed"
_WATCHED = ("/brokers/", "/lists/")
_CHANGES = {"open", "os.rename", "os.remove", "os.truncate"}


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One life of the process that is to be killed.

    ``first`` keeps the numbers of two lives apart. ``alone``: one lease and then the end, instead
    of several at once without end. ``step``: it kills itself at this step.
    """

    table: dict[str, Any]
    grant: dict[str, Any]
    first: int
    alone: bool = False
    step: int | None = None


class Fuse:
    """Counts the steps of a life, and ends the process at one of them as nothing else ends it."""

    def __init__(self, at: int | None = None) -> None:
        self.steps = 0
        self.at = at

    def step(self) -> None:
        """Take one step, if it is not the last."""
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Be an audit hook: what a broker does to its own files are steps as well."""
        if event not in _CHANGES or not isinstance(arguments[0], str):
            return
        reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if not reads and any(part in arguments[0] for part in _WATCHED):
            self.step()


class Watched:
    """A broker whose every answer is a step, and whose credentials are written down."""

    def __init__(self, broker: Broker, fuse: Fuse, minted: Path) -> None:
        self._broker = broker
        self._fuse = fuse
        self._minted = minted

    @property
    def traits(self) -> Traits:
        """The broker's own."""
        return self._broker.traits

    def check(self, grant: Mapping[str, Any]) -> None:
        """Ask the broker."""
        self._broker.check(grant)

    async def issue(self, order: Order) -> Credential:
        """Mint between two steps."""
        self._fuse.step()
        minted = await self._broker.issue(order)
        note(self._minted, {"handle": order.lease.handle, "values": dict(minted.values)})
        self._fuse.step()
        return minted

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Revoke between two steps."""
        self._fuse.step()
        answer = await self._broker.revoke(lease, keep)
        self._fuse.step()
        return answer

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Ask the broker."""
        return await self._broker.census(leases)

    async def close(self) -> None:
        """Close the broker."""
        await self._broker.close()


def note(file: Path, line: object) -> None:
    """Append one line in one write, which a SIGKILL can cut where a page of memory ends."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, msgspec.json.encode(line) + b"\n")
    finally:
        os.close(descriptor)


def noted(file: Path) -> list[dict[str, Any]]:
    """Return the lines of such a file; nobody was given what a cut one is about."""
    whole = file.read_bytes().rpartition(b"\n")[0] if file.exists() else b""
    return [msgspec.json.decode(line) for line in whole.splitlines()]


class FileIssuer:
    """Signs as the authority of a folder: whoever has the folder signs with the same key.

    Each access token is written down before anybody is given it, as :data:`SIGNED`.
    """

    issuer = "https://remit.example.com"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "issuer.json"

    def make(self) -> ECKey:
        """Make the key, and return it."""
        key = ECKey.generate_key("P-256", {"kid": "1"}, auto_kid=False)
        self._file.touch(mode=0o600)
        self._file.write_bytes(msgspec.json.encode(key.as_dict(private=True)))
        return key

    def sign_jwt(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        """Return a compact JWS."""
        key = ECKey.import_key(msgspec.json.decode(self._file.read_bytes()))
        header = {"alg": "ES256", "typ": typ, "kid": "1"}
        if typ == "at+jwt":
            note(self._folder / SIGNED, {"name": claims["jti"], "end": claims["exp"]})
        return jwt.encode(header, {**claims, "iss": self.issuer}, key)


class Clock:
    """The time, and how far it was moved: a quarantine and a back-off cost no test a second."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """Return it, aware UTC."""
        return datetime.now(UTC) + self.ahead


@dataclass
class Desk:
    """An open book over a real ledger, a real disk and a real target."""

    house: House
    ledger: Ledger
    pages: SqliteLeases
    leases: Leases
    broker: Broker
    clock: Clock


@asynccontextmanager
async def open_desk(
    folder: Path, table: Mapping[str, Any], grant: Mapping[str, Any], fuse: Fuse | None = None
) -> AsyncIterator[Desk]:
    """Open the state folder, taking up what the last run left."""
    clock, house = Clock(), House(folder / "state")
    ledger = await house.open()
    if fuse is not None:
        ledger.barrier = _stepping(ledger.barrier, fuse)  # type: ignore[method-assign] - a crash test reaches in
    try:
        async with aiohttp.ClientSession(trust_env=False) as http:
            broker, _ = load_broker("target", table, _surroundings(folder, clock, http))
            if fuse is not None:
                broker = Watched(broker, fuse, folder / MINTED)
            pages = SqliteLeases(house.journal)
            leases = Leases(
                bindings={"target": Binding(name="target", broker=broker, grant=grant)},
                store=pages,
                recorder=ledger,
                clock=clock,
                seal=KeySeal(bytes(32)),
                installation=INSTALLATION,
            )
            try:
                await leases.load()
                yield Desk(house, ledger, pages, leases, broker, clock)
            finally:
                await broker.close()
    finally:
        await house.close(ledger)


def _surroundings(folder: Path, clock: Clock, http: aiohttp.ClientSession) -> Surroundings:
    return Surroundings(
        http=http,
        signer=FileIssuer(folder),
        clock=clock,
        installation=INSTALLATION,
        state=folder / "state",
        path=lambda text: folder / text,
    )


def _stepping(barrier: Callable[[], Awaitable[None]], fuse: Fuse) -> Callable[[], Awaitable[None]]:
    async def stepping() -> None:
        fuse.step()
        await barrier()
        fuse.step()

    return stepping


async def one_call(desk: Desk, number: int) -> None:
    """Reserve, mint, and settle."""
    task = task_of(number, seconds=10**9, template_seconds=10**9)
    call = Call(
        id=f"call_{number:026d}",
        action=CALL_TOOL,
        upstream="target",
        name="use",
        arguments={},
        digest="0" * 64,
    )
    decision = Decision(
        id=f"dec_{number:026d}",
        effect=Effect.PERMIT,
        reasons=(),
        bundle_digest="sha256:0",
        facts=b"{}",
        target=call.target,
        action=CALL_TOOL,
    )
    lease = desk.leases.reserve(task, call, decision)
    assert lease is not None
    await desk.ledger.barrier()
    try:
        await desk.leases.issue(lease)
    finally:  # as the spine does it: a mint that failed is settled like any other
        await desk.ledger.barrier()
        await desk.leases.settle(lease)
    await desk.ledger.barrier()


async def until_killed(folder: Path, turn: Turn) -> None:
    """Live one turn: say that it began, mint and settle, and say how many steps that took."""
    fuse = Fuse()
    async with open_desk(folder, turn.table, turn.grant, fuse) as desk:
        if not turn.alone:
            await one_call(desk, turn.first)
        say(f"began {os.getpid()}")
        sys.addaudithook(fuse.watch)
        fuse.steps, fuse.at = 0, turn.step
        if turn.alone:
            with suppress(RemitError):
                await one_call(desk, turn.first)
            say(f"steps {fuse.steps}")
            return

        async def worker(place: int) -> None:
            for number in range(1, 10_000):
                with suppress(RemitError):
                    await one_call(desk, turn.first + number * WORKERS + place)

        await asyncio.gather(*(worker(place) for place in range(WORKERS)))


def say(line: str) -> None:
    """Tell whoever started this."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Fork a life for each line."""
    folder = Path(sys.argv[1])
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(until_killed(folder, msgspec.json.decode(line, type=Turn)))
            finally:
                sys.stderr.flush()
                os._exit(1)
        os.waitpid(child, 0)
        say("dead")


if __name__ == "__main__":
    main()
