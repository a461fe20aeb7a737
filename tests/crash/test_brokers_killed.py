"""kill -9 of a process that leases at a real target; afterwards the target itself is asked.

At random moments under load, at each step of one lease, and at each message between the process
and its target, which then never arrives, arrives at once, or arrives after the next run has swept.
``REMIT_CRASH_POINTS`` says at how many points for each broker and each of these; 500 is what a
release is measured with.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import pytest_asyncio
from cutting import Cutting, How, cutting, left_alone
from killed_targets import TARGETS, Target
from leases_under_load import MINTED, Turn, open_desk

from remit.model.lease import Lease, LeaseState

POINTS = int(os.environ.get("REMIT_CRASH_POINTS", "4"))
PROGRAM = Path(__file__).resolve().parents[1] / "support" / "leases_under_load.py"
PAST_THE_QUARANTINE = timedelta(seconds=31)

REACHED = tuple(each for each in TARGETS if each not in {"ssh", "x509"})
"""Those that are reached over a network."""
LOADED = tuple(each for each in TARGETS if each != "x509")
"""nginx reads its list so slowly that a life under load is nothing but waiting for it."""
T = TypeVar("T")

pytestmark = [
    pytest.mark.crash,
    pytest.mark.real,
    pytest.mark.timeout(60 + 6 * POINTS),
    pytest.mark.asyncio(loop_scope="module"),
]


@dataclass
class Seen:
    """What the kills left before anybody cleaned up: a test that saw nothing shows nothing."""

    states: Counter[str] = field(default_factory=Counter)
    alive: int = 0
    """How often the target held something when the process was dead."""


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
        """Restart, sweep, and ask the target, which may be down when the restart comes."""
        target, port = self.target, self.target.port
        async with open_desk(self.folder, target.direct, target.grant) as desk:
            left = desk.leases.open_leases()
            self.seen.states.update(each.state.value for each in left)
            held = self._minted({each.handle for each in left})
            standing = bool(await target.standing())
            for values in held[:1]:
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
            if relay is not None:
                await relay.land()
            if port is not None:
                await left_alone(port)
            desk.clock.ahead = PAST_THE_QUARANTINE
            while await desk.leases.sweep(_nobodys):
                await self._owned_up(desk.leases.open_leases())
                assert desk.clock.ahead < timedelta(hours=2), desk.leases.open_leases()
                desk.clock.ahead *= 2
                target.moved(desk.clock.ahead)
        await self.refused(held)

    def begin_a_new_book(self) -> None:
        """Go on with an empty book and an empty log; the target and the broker's own files stay."""
        for part in (self.folder / "state").iterdir():
            if part.name != "brokers":
                shutil.rmtree(part) if part.is_dir() else part.unlink()

    async def refused(self, held: list[dict[str, str]]) -> None:
        """Ask the target what it holds, and use again what was held."""
        async with asyncio.timeout(20):
            while standing := await self.target.standing():
                # What hangs by a token ends a moment after the token, by OpenBao's own queue.
                assert "openbao" in str(self.target.direct["kind"]), standing
                await asyncio.sleep(0.05)
        for values in held:
            assert not await self.target.accepts(values)
        self.target.moved(timedelta())

    async def _owned_up(self, left: tuple[Lease, ...]) -> None:
        """See that what lives on, where the target chooses names, is said to live until then."""
        assert self.target.owns_up, left
        assert {each.state for each in left} <= {LeaseState.UNKNOWN, LeaseState.SETTLING}
        assert len(await self.target.standing()) <= len(left)

    def _minted(self, handles: set[str]) -> list[dict[str, str]]:
        """Return the credentials of these leases that the process was given before it died."""
        file = self.folder / MINTED
        if not file.exists():
            return []
        lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
        file.unlink()
        return [line["values"] for line in lines if line["handle"] in handles]


def _nobodys(_task: str) -> bool:
    return False


@contextlib.asynccontextmanager
async def living(kind: str, folder: Path) -> AsyncIterator[Lives]:
    async with TARGETS[kind](folder) as target:
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


def some(points: Sequence[T], most: int = POINTS) -> list[T]:
    """Return as many points as are asked for, from all over the life."""
    count = min(most, len(points))
    return [points[(2 * at + 1) * len(points) // (2 * count)] for at in range(count)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lives(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lives]:
    async with living(request.param, tmp_path_factory.mktemp("killed")) as made:
        yield made


def at_each(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lives", kinds, indirect=True, scope="module")


@at_each(*LOADED)
async def test_killed_at_random_moments_under_load_the_target_keeps_nothing(lives: Lives):
    lives.seen = Seen()
    draw = random.Random(POINTS)
    await lives.begin(alone=True)
    began = time.monotonic()
    assert await lives.end()
    longest = 2 * (time.monotonic() - began)  # of one life: where kills fall, not what holds
    for point in range(1, POINTS + 1):
        pid = await lives.begin()
        await asyncio.sleep(draw.uniform(0, longest))
        os.kill(pid, signal.SIGKILL)
        assert await lives.end() is None
        await lives.nothing_is_left()
        if point % 20 == 0:
            lives.begin_a_new_book()  # a start checks the whole log: each would take longer
    assert lives.seen.states, "no kill ever left a lease open: nothing was shown"


@at_each(*TARGETS)
async def test_killed_at_any_step_of_a_lease_the_target_keeps_nothing(lives: Lives):
    lives.seen = Seen()
    await lives.begin(alone=True)
    steps = await lives.end()
    assert steps is not None
    assert steps >= 10, "three barriers, a mint and a revocation have two each"
    for step in some(range(1, steps + 1), POINTS // 2 if lives.target.slow else POINTS):
        await lives.begin(alone=True, step=step)
        assert await lives.end() is None, step
        await lives.nothing_is_left()
    assert lives.seen.alive
    assert len(lives.seen.states) > 1, lives.seen.states


@at_each(*TARGETS)
async def test_with_the_target_down_at_the_restart_the_sweep_ends_it_when_it_is_up(lives: Lives):
    lives.seen = Seen()
    await lives.begin(alone=True)
    steps = await lives.end()
    assert steps is not None
    for step in some(range(steps // 2, steps), 1 + POINTS // 16):
        await lives.begin(alone=True, step=step)
        assert await lives.end() is None, step
        await lives.nothing_is_left(down=True)
    assert lives.seen.states


@at_each(*REACHED)
async def test_killed_at_a_message_that_never_comes_comes_or_comes_late_the_target_keeps_nothing(
    lives: Lives,
):
    lives.seen = Seen()
    ways = await messages(lives)
    points = [
        (at, how)
        for at, to_target in enumerate(ways, 1)
        for how in (How.DROPPED, How.PASSED, How.LATE)
        if to_target or how is How.DROPPED
    ]
    died = [await one_life(lives, at, how) is None for at, how in some(points)]
    # The last messages only say goodbye, and differ from life to life.
    assert died.count(True) >= len(died) * 3 / 4
    assert lives.seen.states, "no kill ever left a lease open: nothing was shown"
    # A few points may all lie before the mint or after the revocation; all of them cannot.
    assert lives.seen.alive or len(points) > POINTS


@at_each(*REACHED)
async def test_a_message_that_arrives_after_the_time_out_leaves_nothing(lives: Lives):
    """Asked or answered late: the broker gave up, its process is gone, and then it lands."""
    ways = await messages(lives)
    lives.seen = Seen()
    for at in some(range(1, len(ways) + 1), 1 + POINTS // 2):
        assert await one_life(lives, at, How.HELD, timeout_seconds=0.3) is not None
    assert lives.seen.states, "no time-out ever left a lease open: nothing was shown"


async def messages(lives: Lives) -> list[bool]:
    """Return the messages of one life: whether each went to the target."""
    assert lives.target.port is not None
    async with cutting(lives.target.port) as relay:
        await lives.begin(lives.target.table(relay.port), alone=True)
        assert await lives.end()
        await lives.nothing_is_left()
        return relay.ways


async def one_life(lives: Lives, at: int, how: How, **options: Any) -> int | None:
    """Live once behind a relay that cuts at a message; return the steps, if it came to its end."""
    assert lives.target.port is not None
    async with cutting(lives.target.port, at, how) as relay:
        table = {**lives.target.table(relay.port), **options}
        relay.pid.set_result(await lives.begin(table, alone=True))
        ended = await lives.end()
        await lives.nothing_is_left(relay)
        return ended
