"""What every store of approvals does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from remit.approvals.ports import ApprovalStore
from remit.model.approval import Approval, ApprovalState
from remit.storage.sqlite.approvals import SqliteApprovals
from remit.storage.sqlite.journal import Journal
from remit.testing.approvals import MemoryApprovals

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@dataclass
class Kept:
    store: ApprovalStore
    barrier: Callable[[], Awaitable[None]]
    again: Callable[[], Awaitable[ApprovalStore]]
    """Returns the store as another process would open it."""


@pytest.fixture(params=["memory", "sqlite"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    if request.param == "memory":
        memory = MemoryApprovals()

        async def nothing() -> None:
            return

        async def same() -> ApprovalStore:
            return memory

        yield Kept(memory, nothing, same)
        return
    journals = [Journal.open(tmp_path / "state" / "remit.db")]

    async def reopened() -> ApprovalStore:
        await journals[-1].close()
        journals.append(Journal.open(tmp_path / "state" / "remit.db"))
        return SqliteApprovals(journals[-1])

    yield Kept(SqliteApprovals(journals[0]), journals[0].barrier, reopened)
    await journals[-1].close()


def approval(number: int = 1) -> Approval:
    return Approval(
        id=f"apr_{number:026d}",
        task="task_1",
        call_digest="00",
        bundle_digest="sha256:11",
        role="manager",
        requester="spiffe://test.example/agents/one",
        on_behalf_of="user:ann@corp.example",
        target="payments/refund",
        action="call_tool",
        sentence="a refund above 50 ☂",
        preview='{"arguments": {}}',
        asked_at=NOW,
        expires_at=NOW + timedelta(seconds=900),
    )


async def test_what_is_not_there_is_none(kept: Kept) -> None:
    assert await kept.store.get("apr_unknown") is None
    assert await kept.store.list() == []


async def test_an_approval_comes_back_as_it_was_last_put(kept: Kept) -> None:
    asked = approval()
    approved = replace(
        asked,
        state=ApprovalState.APPROVED,
        decided_by="user:bob@corp.example",
        decided_at=NOW + timedelta(seconds=1),
        comment="fine ☂",
    )
    kept.store.put(asked)
    await kept.barrier()
    assert await kept.store.get(asked.id) == asked
    kept.store.put(approved)
    await kept.barrier()

    store = await kept.again()
    assert await store.get(asked.id) == approved
    assert await store.list(state=ApprovalState.PENDING) == []
    assert await store.list(state=ApprovalState.APPROVED) == [approved]


async def test_approvals_are_listed_newest_first_in_pages(kept: Kept) -> None:
    approvals = [approval(number) for number in range(1, 6)]
    for one in (approvals[3], *approvals):
        kept.store.put(one)
    await kept.barrier()

    newest = approvals[::-1]
    assert await kept.store.list() == newest
    assert await kept.store.list(limit=2) == newest[:2]
    assert await kept.store.list(limit=2, after=newest[1].id) == newest[2:4]
    assert await kept.store.list(state=ApprovalState.PENDING, after=newest[4].id) == []
