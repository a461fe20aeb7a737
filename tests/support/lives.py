"""One process after another that leases at a real target and is killed; then the target is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from cutting import Cutting, How, cutting, left_alone
from killed_targets import Target
from leases_under_load import MINTED, Desk, Turn, noted, open_desk

from remit.credentials.census import Standing, verify_none
from remit.model.lease import LeaseState

PROGRAM = Path(__file__).with_name("leases_under_load.py")
PAST_THE_QUARANTINE = timedelta(seconds=31)
WHOLE_SECONDS = timedelta(seconds=2)
"""What a target that counts whole seconds may be apart from the book."""


@dataclass
class Seen:
    """What the kills left before anybody cleaned up: a test that saw nothing shows nothing."""

    states: Counter[str] = field(default_factory=Counter)
    alive: int = 0
    """How often the target held something when the process was dead."""
    left: int = 0
    """How many leases the kills left open."""
    owned_up: int = 0
    """How many credentials were alive that nothing takes back, each named with its end."""


class Lives:
    """Has one process after another live and die over a state folder."""

    def __init__(self, folder: Path, target: Target, starter: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.target = target
        self.seen = Seen()
        self._starter = starter
        self._numbers = 0

    async def begin(self, table: dict[str, Any] | None = None, **changes: Any) -> int:
        """Let a life begin, and return its process's number."""
        self._numbers += 100_000
        table = table or self.target.direct
        turn = Turn(table=table, grant=self.target.grant, first=self._numbers, **changes)
        assert self._starter.stdin is not None
        self._starter.stdin.write(msgspec.json.encode(turn) + b"\n")
        return int((await self._said("began")).split()[1])

    async def end(self) -> int | None:
        """Return when the process is dead: its steps, if it lived to its end."""
        said = await self._said("dead", "steps")
        if said == "dead":
            return None
        assert await self._said("dead")
        return int(said.split()[1])

    async def _said(self, *words: str) -> str:
        """Return the next line that begins with one of the words: the log stands between."""
        assert self._starter.stdout is not None
        while said := (await self._starter.stdout.readline()).decode().strip():
            if said.split()[0] in words:
                return said
            assert said != "dead", "the process died before it began"
        raise AssertionError("the program ended")

    async def nothing_is_left(self, relay: Cutting | None = None, *, down: bool = False) -> None:
        """Restart, sweep, and ask the target, which may be down when the restart comes.

        What nothing takes back has to be in the book with its end, and named by a census, until
        then; and to be refused afterwards.
        """
        target, port = self.target, self.target.port
        async with open_desk(self.folder, target.direct, target.grant) as desk:
            target.met(desk)
            left = desk.leases.open_leases()
            self.seen.states.update(each.state.value for each in left)
            self.seen.left += len(left)
            held = self._minted({each.handle for each in left})
            standing = bool(await target.standing())
            for values in list(held.values())[:1]:
                standing = standing or await target.accepts(values)
            self.seen.alive += standing
            if down:
                await target.down()
                try:
                    await desk.leases.sweep(_nobodys)
                finally:
                    await target.up()
                assert {each.id for each in left} == {e.id for e in desk.leases.open_leases()}
                desk.clock.ahead = timedelta(seconds=5)  # its back-off is over
            # At once: what the dead process asked for may be under way still.
            await desk.leases.sweep(_nobodys)
            await self._owned_up(desk, held)
            if relay is not None:
                await relay.land()
            if port is not None:
                await left_alone(port)
            desk.clock.ahead = PAST_THE_QUARANTINE
            target.moved(desk.clock.ahead)
            while await desk.leases.sweep(_nobodys):
                await self._owned_up(desk, held)
                assert desk.clock.ahead < timedelta(hours=2), desk.leases.open_leases()
                desk.clock.ahead *= 2
                target.moved(desk.clock.ahead)
            assert not await self._named(desk)
            await self.refused(held)

    def begin_a_new_book(self) -> None:
        """Go on with an empty book and an empty log; the target and the broker's own files stay."""
        self.target.forgotten()
        for part in (self.folder / "state").iterdir():
            if part.name != "brokers":
                shutil.rmtree(part) if part.is_dir() else part.unlink()

    async def refused(self, held: Mapping[str, Mapping[str, str]]) -> None:
        """Ask the target what it holds, and use again what was held."""
        async with asyncio.timeout(20):
            while standing := await self.target.standing():
                # What hangs by a token ends a moment after the token, by OpenBao's own queue.
                assert "openbao" in str(self.target.direct["kind"]), standing
                await asyncio.sleep(0.05)
        for values in held.values():
            assert not await self.target.accepts(values)
        self.target.moved(timedelta())
        await self.target.cleared()

    async def _owned_up(self, desk: Desk, held: Mapping[str, Mapping[str, str]]) -> None:
        """See that the book knows, with its end, whatever the target may still take; all else died.

        By the target's own word of what it holds and until when, against what a census names. An end
        is never too early; and where the mint was answered it is the target's own, to the second.
        """
        left = desk.leases.open_leases()
        if self.target.ends is None:
            return
        assert {each.state for each in left} <= {LeaseState.UNKNOWN, LeaseState.SETTLING}
        named = await self._named(desk)  # first: what runs out meanwhile is nobody's fault
        ends = dict(await self.target.ends())
        answered = {each.handle for each in left if each.issued_at is not None}
        if self.target.names_are_ours:
            for name, end in ends.items():
                assert name in named, f"the target holds `{name}`, and no census names it"
                until = named[name].until
                assert until is not None
                assert until >= end, "a credential lives longer than the book says"
                if name in answered:
                    assert until - end <= WHOLE_SECONDS, "the book's end is not the target's"
        else:
            untils = sorted((each.until for each in named.values() if each.until), reverse=True)
            assert len(ends) <= len(untils), "the target holds more than a census names"
            for until, end in zip(untils, sorted(ends.values(), reverse=True), strict=False):
                assert until >= end, "a credential lives longer than the book says"
        self.seen.owned_up += len(ends)
        if self.target.end_of is not None:
            for handle in answered & held.keys() & named.keys():
                until = named[handle].until
                assert until is not None
                assert until >= self.target.end_of(held[handle]), "the book's end is too early"

    async def _named(self, desk: Desk) -> dict[str, Standing]:
        """Return what `remit credential verify-none` would name."""
        await desk.ledger.barrier()
        report = await verify_none({"target": desk.broker}, desk.pages, _nobodys, desk.clock())
        assert all(each.trouble is None for each in report.asked), report.asked
        return {each.handle: each for each in report.findings}

    def _minted(self, handles: set[str]) -> dict[str, dict[str, str]]:
        """Return the credentials of these leases that the process was given before it died."""
        file = self.folder / MINTED
        lines = noted(file)
        file.unlink(missing_ok=True)
        return {line["handle"]: line["values"] for line in lines if line["handle"] in handles}


def _nobodys(_task: str) -> bool:
    return False


@contextlib.asynccontextmanager
async def living(
    folder: Path, target_of: Callable[[Path], AbstractAsyncContextManager[Target]]
) -> AsyncIterator[Lives]:
    """Start a target, and the program whose forks lease at it."""
    async with target_of(folder) as target:
        starter = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            str(folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert starter.stdin is not None
        try:
            yield Lives(folder, target, starter)
            starter.stdin.close()
            await starter.wait()
        finally:
            if starter.returncode is None:
                os.killpg(starter.pid, signal.SIGKILL)
                await starter.wait()


async def messages(lives: Lives) -> list[bool]:
    """Return the messages of one life: whether each went to the target."""
    assert lives.target.port is not None
    async with cutting(lives.target.port, renaming=lives.target.names_itself) as relay:
        await lives.begin(lives.target.table(relay.port), alone=True)
        assert await lives.end()
        await lives.nothing_is_left()
        return relay.ways


async def one_life(lives: Lives, at: int, how: How, *, hurried: bool = False) -> int | None:
    """Live once behind a relay that cuts at a message; return the steps, if it came to its end."""
    assert lives.target.port is not None
    async with cutting(lives.target.port, at, how, renaming=lives.target.names_itself) as relay:
        table = lives.target.table(relay.port)
        if hurried:
            table = lives.target.hurried(table)
        relay.pid.set_result(await lives.begin(table, alone=True))
        ended = await lives.end()
        await lives.nothing_is_left(relay)
        return ended
