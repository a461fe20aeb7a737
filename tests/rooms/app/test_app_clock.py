"""A clock that jumps: nothing lives longer for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import standing

from remit.app import compose as composing
from remit.app.clock import SteadyClock
from remit.app.compose import compose
from remit.app.config import load
from remit.model.task import TaskState

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Machine:
    """A machine's two clocks; only one of them can be set."""

    def __init__(self) -> None:
        self.wall = START
        self.passed = 100.0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.passed)

    def wait(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.passed += seconds

    def set(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)


def test_a_clock_that_is_set_back_goes_on_from_the_latest_time():
    machine = Machine()
    machine.wait(10)
    machine.set(-3600)
    machine.wait(5)
    assert machine.clock() == START + timedelta(seconds=15)
    assert "went back by 3600 seconds" in str(machine.clock.health())
    machine.set(3600)
    machine.wait(1)
    assert machine.clock() == machine.wall
    assert machine.clock.health() is None


def test_a_clock_that_is_set_forward_is_followed_and_time_goes_on_when_it_is_set_right():
    machine = Machine()
    machine.set(86_400)
    assert machine.clock() == START + timedelta(days=1)
    machine.set(-86_400)
    machine.wait(30)
    assert machine.clock() == START + timedelta(days=1, seconds=30)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10_000), st.integers(-10_000, 10_000))))
def test_it_never_goes_back_nor_slower_than_time(steps: list[tuple[bool, int, int]]):
    machine = Machine()
    before = machine.clock()
    for waits, seconds, jump in steps:
        machine.wait(seconds) if waits else machine.set(jump)
        now = machine.clock()
        assert now - before >= timedelta(seconds=seconds if waits else 0)
        assert now >= machine.wall
        before = now


async def test_tasks_that_were_open_when_the_clock_went_back_over_a_restart_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with standing(tmp_path) as world:
        task = world.opened.task.id
    early = SteadyClock(lambda: datetime.now(UTC) - timedelta(hours=1))
    monkeypatch.setattr(composing, "utc_now", early)
    house = await compose(load(tmp_path / "remit.toml"))
    try:
        assert (await house.authority.tasks.get(task)).state is TaskState.EXPIRED
        kinds = [record.kind for _, record in await house.authority.evidence.chain(task)]
        assert kinds[-2:] == ["task.expired", "task.sealed"]
    finally:
        await house.close()
