"""The task desk on the parts it stands on in earnest: the trust domain's keys and SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remit.model.errors import MandateError
from remit.model.task import TaskState
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.tasks import SqliteTasks
from remit.tasks.desk import TaskDesk
from remit.tasks.templates import parse_template
from remit.testing.identity import ManualClock, trust_domain

if TYPE_CHECKING:
    from conftest import House


@dataclass
class Disk:
    folder: Path
    house: House
    journal: Journal

    async def start(self) -> TaskDesk:
        await self.journal.close()
        self.journal = Journal.open(self.folder / "remit.db")
        desk = self.desk()
        await desk.load()
        self.house.desk = desk
        return desk

    def desk(self) -> TaskDesk:
        return TaskDesk(
            store=SqliteTasks(self.journal),
            signer=trust_domain(self.folder, clock=self.house.clock),
            recorder=self.house.recorder,
            clock=self.house.clock,
            templates={"support.refund": parse_template("support.refund.toml", self.house.refund)},
        )


@pytest.fixture
async def disk(tmp_path: Path, house: House) -> AsyncIterator[Disk]:
    house.clock = ManualClock()
    disk = Disk(tmp_path, house, Journal.open(tmp_path / "remit.db"))
    house.desk = disk.desk()
    yield disk
    await disk.journal.close()


async def test_a_task_goes_on_after_a_start_with_its_token_and_what_it_spent(
    house: House, disk: Disk
) -> None:
    opened = await house.open(purpose="Refund order 1234", prompt="Please refund")
    in_flight = house.call("payments/refund", {"amount": 60})
    house.desk.spend(opened.task.id, in_flight)

    desk = await disk.start()

    task = await house.admit(opened.token)
    assert task.mandate == opened.task.mandate
    assert task.template == opened.task.template
    assert task.mandate_digest == opened.task.mandate_digest
    assert str(task.spent.amounts["usd"]) == "60"
    with pytest.raises(MandateError, match="usd"):
        desk.spend(task.id, house.call("payments/refund", {"amount": 41}))
    closed = await desk.close(task.id, TaskState.COMPLETED, "user:ann")

    desk = await disk.start()
    assert (await desk.get(task.id)).spent == closed.spent
    with pytest.raises(MandateError, match="completed"):
        await house.admit(opened.token)


async def test_a_task_that_expired_while_nothing_ran_is_due_after_the_start(
    house: House, disk: Disk
) -> None:
    opened = await house.open()
    house.clock.move(1800)

    desk = await disk.start()

    assert desk.due(house.clock()) == [opened.task.id]
    with pytest.raises(MandateError):
        await house.admit(opened.token)


async def test_a_token_of_another_trust_domain_of_the_same_name_is_refused(
    house: House, disk: Disk, tmp_path: Path
) -> None:
    opened = await house.open()
    (tmp_path / "other").mkdir()
    other = trust_domain(tmp_path / "other", clock=house.clock)
    claims = {"sub": str(house.agent.spiffe_id), "task": opened.task.id, "aud": "remit"}

    with pytest.raises(MandateError, match="does not hold"):
        await house.admit(other.sign(claims, typ="remit-task+jwt"))
