"""A `remit up` killed while a tree of delegated tasks works and ends: what is below has no other fate.

Killed around the end of the root, or the suspension of its agent. After the start, no task is open
below one that ended or whose delegator may not act; every end and seal is there once; and what acted
is counted in the budget of every task of its chain.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from authority import Place, draft

from remit.model.errors import RemitError

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]
ENDS = {"task.completed", "task.cancelled", "task.expired"}
ROUNDS = 4


@dataclass
class Family:
    """One tree: the tasks from the root down, and the token of the deepest."""

    tasks: list[str] = field(default_factory=list)
    token: str = ""

    def plant(self, place: Place) -> None:
        asked = {"agent": "one", "template": "draft"}
        made = place.control.post("tasks", body=asked)
        self.tasks = [made["id"]]
        for name in ("two", "three"):
            asked = {"agent": name, "template": "draft"}
            made = place.control.post("tasks", self.tasks[-1], "delegate", body=asked)
            self.tasks.append(made["id"])
        self.token = made["task_token"]


async def load(place: Place, family: Family, label: str, begun: asyncio.Event) -> None:
    """Draft under the deepest task until the authority is gone; say when the first is done."""
    svid = place.svid("three")

    async def worker(number: int, session: aiohttp.ClientSession) -> None:
        for turn in range(10_000):
            body = f"{label} {number} {turn}"
            with contextlib.suppress(ValueError, IndexError):
                try:
                    await draft(session, place, svid=svid, token=family.token, body=body)
                    begun.set()
                except (aiohttp.ClientError, OSError):
                    return

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        await asyncio.gather(*(worker(number, session) for number in range(3)))


def end(place: Place, family: Family, suspending: bool) -> None:
    with contextlib.suppress(RemitError):
        if suspending:
            place.control.post("agents", "one", "suspend")
        else:
            place.control.post("tasks", family.tasks[0], "complete")


async def sealed(place: Place, task: str) -> list[str]:
    """Return the kinds of a task's records once it is sealed."""
    for _ in range(40):
        chain = await asyncio.to_thread(place.control.get, "evidence", "tasks", task)
        if chain["sealed"]:
            return [record["kind"] for record in chain["records"]]
        await asyncio.sleep(0.25)
    raise AssertionError(f"`{task}` was not sealed")


async def test_whatever_it_was_killed_in_no_task_is_left_below_one_that_ended(tmp_path: Path):
    place = Place(tmp_path)
    chance = random.Random(8)
    families: list[tuple[Family, bool]] = []
    over: list[bool] = []
    with place.helpdesk():
        for round_ in range(ROUNDS):
            suspending = round_ % 2 == 1
            with place.up() as authority:
                if not families:
                    for name in ("one", "two", "three"):
                        place.register(name)
                else:
                    over.append(await _hold(place, *families[-1]))
                    if families[-1][1] and over[-1]:
                        await asyncio.to_thread(place.control.post, "agents", "one", "resume")
                family = Family()
                await asyncio.to_thread(family.plant, place)
                families.append((family, suspending))
                begun = asyncio.Event()
                loading = asyncio.create_task(load(place, family, f"round {round_}", begun))
                await begun.wait()
                await asyncio.sleep(chance.uniform(0.0, 0.3))
                ending = asyncio.create_task(asyncio.to_thread(end, place, family, suspending))
                if round_ == ROUNDS - 1:
                    await ending  # it was told that its agent is suspended, and nothing more
                else:
                    await asyncio.sleep(chance.uniform(0.0, 0.15))
                authority.kill()
                await asyncio.gather(loading, ending)
        with place.up():
            over.append(await _hold(place, *families[-1]))
            for round_, (family, _) in enumerate(families):
                acted = [body for body in place.drafts() if body.startswith(f"round {round_} ")]
                for task in family.tasks:
                    shown = await asyncio.to_thread(place.control.get, "tasks", task)
                    assert len(acted) <= shown["spent"]["calls"], task
    assert over[-1]


async def _hold(place: Place, family: Family, suspending: bool) -> bool:
    """Check a tree after a start; return whether its end had become durable before the kill."""
    shown: list[dict[str, Any]] = [
        await asyncio.to_thread(place.control.get, "tasks", task) for task in family.tasks
    ]
    states = [each["state"] for each in shown]
    agent = await asyncio.to_thread(place.control.get, "agents", "one")
    over = agent["state"] == "suspended" if suspending else states[0] != "open"
    if over:
        assert states[1:] == ["cancelled", "cancelled"], states
    for place_, each in enumerate(shown):
        if each["state"] == "open":
            assert all(state == "open" for state in states[:place_])
            continue
        kinds = await sealed(place, each["id"])
        assert len([kind for kind in kinds if kind in ENDS]) == 1, kinds
        assert kinds.count("task.sealed") == 1
        if place_:
            assert each["ended_with"] == family.tasks[0]
    return over
