"""kill -9 of a process that leases at a real target; afterwards the target itself is asked.

At random moments under load, at each step of one lease, and at each message between the process
and its target, which then never arrives, arrives at once, or arrives after the next run has swept.
Where a target takes nothing back, or not what it never answered, what holds is: whatever it may
still take is in the book with an end that is not too early, a census names it, and after that end it
is refused. ``REMIT_CRASH_POINTS`` says at how many points for each broker and each of these; 500 is
what a release is measured with.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
from cutting import How
from killed_issuers import (
    aws,
    aws_denied,
    jwt_introspected,
    jwt_offline,
    oauth,
    oauth_at_expiry,
)
from killed_targets import (
    Target,
    github,
    kubernetes,
    openbao,
    openbao_secret,
    postgres,
    ssh,
    ssh_pushed,
    x509,
)
from lives import Lives, Seen, living, messages, one_life

POINTS = int(os.environ.get("REMIT_CRASH_POINTS", "4"))
RELEASE = 16
TARGETS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Target]]] = {
    "postgres": postgres,
    "openbao": openbao,
    "openbao secret": openbao_secret,
    "github": github,
    "kubernetes": kubernetes,
    "aws": aws,
    "aws denied": aws_denied,
    "oauth": oauth,
    "oauth at expiry": oauth_at_expiry,
    "jwt": jwt_offline,
    "jwt introspected": jwt_introspected,
    "ssh": ssh,
    "ssh pushed": ssh_pushed,
    "x509": x509,
}
ASKED = tuple(each for each in TARGETS if not each.startswith("jwt"))
"""Those that there is a target of, which can be down."""
REACHED = tuple(each for each in ASKED if each != "ssh")
"""Those that are reached over a network."""
EVERY_TIME: Mapping[str, set[str]] = {
    "aws": {"moments", "down", "late"},
    "aws denied": {"messages"},
    "oauth": {"steps", "late"},
    "oauth at expiry": set(),
    "jwt": {"moments"},
    "jwt introspected": {"steps"},
    "ssh pushed": set(),
    "x509": {"steps", "down"},
}
"""What is run of those whose lives take long, where it is not for a release."""
T = TypeVar("T")

pytestmark = [
    pytest.mark.crash,
    pytest.mark.real,
    pytest.mark.timeout(120 + 12 * POINTS),
    pytest.mark.asyncio(loop_scope="module"),
]


def some(points: Sequence[T], most: int = POINTS) -> list[T]:
    """Return as many points as are asked for, from all over the life."""
    count = min(most, len(points))
    return [points[(2 * at + 1) * len(points) // (2 * count)] for at in range(count)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lives(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lives]:
    async with living(tmp_path_factory.mktemp("killed"), TARGETS[request.param]) as made:
        yield made


def at_each(what: str, kinds: Sequence[str]) -> pytest.MarkDecorator:
    if POINTS < RELEASE:
        kinds = [each for each in kinds if what in EVERY_TIME.get(each, {what})]
    return pytest.mark.parametrize("lives", kinds, indirect=True, scope="module")


@at_each("moments", tuple(TARGETS))
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
        if point % lives.target.book_lives == 0:
            lives.begin_a_new_book()  # a start checks the whole log: each would take longer
    print(f"{POINTS} kills: {lives.seen}")  # with -s, for the record
    assert lives.seen.states, "no kill ever left a lease open: nothing was shown"
    assert bool(lives.seen.owned_up) or not lives.target.at_expiry


@at_each("steps", tuple(TARGETS))
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
    assert bool(lives.seen.alive) is not lives.target.forgets
    assert len(lives.seen.states) > 1, lives.seen.states


@at_each("down", ASKED)
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


@at_each("messages", REACHED)
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


@at_each("late", REACHED)
async def test_a_message_that_arrives_after_the_time_out_leaves_nothing(lives: Lives):
    """Asked or answered late: the broker gave up, its process is gone, and then it lands."""
    ways = await messages(lives)
    lives.seen = Seen()
    for at in some(range(1, len(ways) + 1), 1 + POINTS // 2):
        assert await one_life(lives, at, How.HELD, hurried=True) is not None
    assert lives.seen.states, "no time-out ever left a lease open: nothing was shown"
