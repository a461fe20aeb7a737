"""What every store of tasks does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from remit.model.label import Confidentiality, Label
from remit.model.mandate import AmountLimit, Budget, Capability, Mandate, Parent, Spent, Template
from remit.model.subject import Environment, SpiffeId
from remit.model.task import Task, TaskState
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.tasks import SqliteTasks
from remit.tasks.mandates import MANDATE_TYP, digest_of, to_claims
from remit.tasks.ports import TaskStore
from remit.testing.tasks import MemorySigner, MemoryTasks

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SIGNER = MemorySigner()


@dataclass
class Kept:
    store: TaskStore
    barrier: Callable[[], Awaitable[None]]
    again: Callable[[], Awaitable[TaskStore]]
    """Returns the store as another process would open it."""


@pytest.fixture(params=["memory", "sqlite"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    if request.param == "memory":
        memory = MemoryTasks()

        async def nothing() -> None:
            return

        async def same() -> TaskStore:
            return memory

        yield Kept(memory, nothing, same)
        return
    journals = [Journal.open(tmp_path / "state" / "remit.db")]

    async def reopened() -> TaskStore:
        await journals[-1].close()
        journals.append(Journal.open(tmp_path / "state" / "remit.db"))
        return SqliteTasks(journals[-1])

    yield Kept(SqliteTasks(journals[0]), journals[0].barrier, reopened)
    await journals[-1].close()


def task(number: int = 1, agent: str = "support") -> Task:
    mandate = Mandate(
        id=f"task_{number:026d}",
        purpose="Refund order 1234 ☂",
        prompt="sha256:00",
        template="support.refund",
        template_digest="sha256:11",
        workload=SpiffeId("test.example", "/agents/one"),
        agent=agent,
        on_behalf_of="user:ann@corp.example",
        opened_by="user:bob@corp.example",
        capabilities=(
            Capability(
                target="payments/refund",
                args={"amount": {"type": "number", "maximum": 99.5}, "order": {"const": None}},
                approval="manager",
            ),
            Capability(target="files/file:///data/*", action="read_resource"),
            Capability(target="crm/any", other_args=True),
        ),
        environments=(Environment.DEV, Environment.PROD),
        data_ceiling=Confidentiality.RESTRICTED,
        egress=("payments.corp.example", "crm.corp.example:8443"),
        budget=Budget(
            calls=5,
            seconds=0.1,
            amounts=(
                AmountLimit(
                    name="usd", limit=Decimal("100.10"), target="payments/refund", argument="amount"
                ),
            ),
        ),
        issued_at=NOW,
        expires_at=NOW + timedelta(seconds=1800),
    )
    signed = SIGNER.sign(to_claims(mandate, "spiffe://test.example"), typ=MANDATE_TYP)
    # The template in force is the desk's to say, so that a store may keep its name alone.
    template = Template(
        name=mandate.template,
        purpose=mandate.purpose,
        capabilities=(),
        environments=(),
        digest=mandate.template_digest,
    )
    return Task(
        mandate=mandate, template=template, signed_mandate=signed, mandate_digest=digest_of(signed)
    )


async def test_what_is_not_there_is_none(kept: Kept) -> None:
    assert await kept.store.get("task_unknown") is None
    assert await kept.store.list() == []


async def test_a_task_comes_back_as_it_was_put(kept: Kept) -> None:
    spent = Spent(calls=3, seconds=1.25, amounts={"usd": Decimal("99.999999999999999999")})
    label = Label(Confidentiality.CONFIDENTIAL, trusted=False, categories=frozenset({"pii", "x"}))
    put = replace(task(), spent=spent, label=label)
    kept.store.put(put)
    await kept.barrier()

    assert await (await kept.again()).get(put.id) == put


async def test_the_last_state_that_was_put_is_kept(kept: Kept) -> None:
    opened = task()
    closed = replace(
        opened,
        state=TaskState.EXPIRED,
        closed_at=NOW + timedelta(microseconds=7),
        closed_by="x",
        key="k",
        ended_with="task_above",
    )
    kept.store.put(opened)
    await kept.barrier()
    kept.store.put(closed)
    await kept.barrier()

    store = await kept.again()
    assert await store.get(opened.id) == closed
    assert await store.list(state=TaskState.OPEN) == []
    assert await store.list(state=TaskState.EXPIRED) == [closed]


async def test_what_was_delegated_of_a_task_is_found_by_it(kept: Kept) -> None:
    parent = task()
    children = []
    for number in (2, 3):
        own = task(number)
        named = Parent(
            task=parent.id, mandate=parent.mandate_digest, workload=parent.mandate.workload
        )
        mandate = replace(own.mandate, parent=named)
        signed = SIGNER.sign(to_claims(mandate, "spiffe://test.example"), typ=MANDATE_TYP)
        children.append(
            replace(own, mandate=mandate, signed_mandate=signed, mandate_digest=digest_of(signed))
        )
    for one in (parent, *children, task(4)):
        kept.store.put(one)
    await kept.barrier()

    store = await kept.again()
    assert await store.list(parent=parent.id) == children[::-1]
    assert await store.list(parent=parent.id, limit=1, after=children[1].id) == [children[0]]
    assert await store.list(parent=children[0].id) == []
    assert await store.list(parent="") == []


async def test_tasks_are_listed_newest_first_in_pages(kept: Kept) -> None:
    tasks = [task(number, "support" if number % 2 else "code") for number in range(1, 8)]
    for one in (tasks[3], *tasks):
        kept.store.put(one)
    await kept.barrier()

    newest = tasks[::-1]
    assert await kept.store.list() == newest
    assert await kept.store.list(limit=3) == newest[:3]
    assert await kept.store.list(limit=3, after=newest[2].id) == newest[3:6]
    assert await kept.store.list(limit=3, after=newest[6].id) == []
    assert await kept.store.list(agent="code") == newest[1::2]
    assert await kept.store.list(agent="code", state=TaskState.COMPLETED) == []
    assert await kept.store.list(agent="' or 1=1 --") == []
