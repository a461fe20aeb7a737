"""A disk that does not answer while a call is under way: refused in time, and one outcome after."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from sqlalchemy import Connection
from world import World

from remit.app.packing import export
from remit.closing import close_task
from remit.model.errors import EvidenceError
from remit.model.outcome import Ending, Outcome
from remit.model.task import TaskState
from remit.proof.verify import verify_pack

OUTCOMES = {
    *("call.succeeded", "call.failed", "call.denied"),
    *("call.unknown", "call.unidentified", "call.unadmitted"),
}


class Disk:
    """The journal's disk, hung by a write that waits until ``mend``."""

    def __init__(self, world: World) -> None:
        self.journal = world.house.journal
        self.go = threading.Event()
        self.fails = False

    def hang(self) -> None:
        def write(_: Connection) -> None:
            self.go.wait()
            if self.fails:
                raise OSError(5, "Input/output error")

        self.journal._wait_seconds = 0.05
        self.journal.stage(write)

    async def mend(self) -> None:
        self.journal._wait_seconds = 10.0
        self.go.set()
        while self.journal._stuck is not None:  # noqa: ASYNC110 - the writer is a thread
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("when", ["before it acts", "as it ends"])
async def test_a_call_that_meets_a_hung_disk_is_refused_in_time_and_has_one_outcome(
    world: World, monkeypatch: pytest.MonkeyPatch, when: str, *, fails: bool
):
    await world.perform()
    disk = Disk(world)
    disk.fails = fails
    spend = world.authority.tasks.spend

    def spending(*given: Any) -> None:
        disk.hang()
        spend(*given)

    async def act(*_: object) -> Outcome:
        world.acted.append(call)
        if when == "as it ends":
            disk.hang()
        return Outcome(ending=Ending.SUCCEEDED, target="desk/read")

    if when == "before it acts":
        monkeypatch.setattr(world.authority.tasks, "spend", spending)
    call = world.call()
    with pytest.raises(EvidenceError, match="has not answered"):
        await world.perform(call, act=act)
    assert (call in world.acted) == (when == "as it ends")
    assert "has not answered" in str(world.authority.evidence.health())
    refused = world.call()
    with pytest.raises(EvidenceError):
        await world.perform(refused, act=act)
    assert refused not in world.acted
    monkeypatch.undo()

    await disk.mend()
    with contextlib.suppress(EvidenceError):  # this test's own task is told of what was lost
        await world.authority.evidence.barrier()
    await world.authority.evidence.pay()
    for each, ending in (
        (call, "call.failed" if when == "before it acts" else "call.succeeded"),
        (refused, "call.failed"),
    ):
        kinds = await world.kinds(each)
        # A group that was lost may have held all that there was to say of a call.
        assert [kind for kind in kinds if kind in OUTCOMES] == ([ending] if kinds else [])
        assert kinds or fails
    await close_task(world.opened.task.id, TaskState.COMPLETED, "user:ada", world.authority)
    verify_pack(await export(world.house, world.opened.task.id), ())


async def test_a_task_whose_end_met_a_hung_disk_ends_once(world: World):
    disk = Disk(world)
    disk.hang()
    task = world.opened.task.id
    with pytest.raises(EvidenceError, match="has not answered"):
        await close_task(task, TaskState.COMPLETED, "user:ada", world.authority)
    await disk.mend()
    closed = await close_task(task, TaskState.CANCELLED, "user:ada", world.authority)
    assert closed.state is TaskState.COMPLETED  # as the log has it
    verify_pack(await export(world.house, task), ())
