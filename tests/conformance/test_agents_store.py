"""What every store of agents does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from remit.identity.ports import AgentStore
from remit.model.subject import Agent, AgentState, Environment, SpiffeId
from remit.storage.sqlite.agents import SqliteAgents
from remit.storage.sqlite.journal import Journal
from remit.testing.identity import MemoryAgents

AGENT = Agent(
    name="support",
    spiffe_id=SpiffeId("test.example", "/agent/support"),
    owner="user:ann@corp.example",
    purpose="drafts replies",
    environment=Environment.PROD,
    autonomy=2,
    templates=("support.refund", "support.reply"),
    gateway_templates=("support.reply",),
    registered_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
)


@dataclass
class Kept:
    store: AgentStore
    barrier: Callable[[], Awaitable[None]]
    again: Callable[[], Awaitable[AgentStore]]
    """Returns the store as another process would open it."""


@pytest.fixture(params=["memory", "sqlite"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    if request.param == "memory":
        memory = MemoryAgents()

        async def nothing() -> None:
            return

        async def same() -> AgentStore:
            return memory

        yield Kept(memory, nothing, same)
        return
    journals = [Journal.open(tmp_path / "state" / "remit.db")]

    async def reopened() -> AgentStore:
        await journals[-1].close()
        journals.append(Journal.open(tmp_path / "state" / "remit.db"))
        return SqliteAgents(journals[-1])

    yield Kept(SqliteAgents(journals[0]), journals[0].barrier, reopened)
    await journals[-1].close()


async def test_an_empty_store_has_no_agents(kept: Kept) -> None:
    assert list(await kept.store.list()) == []


async def test_an_agent_comes_back_as_it_was_put(kept: Kept) -> None:
    bare = replace(AGENT, name="bare", spiffe_id=SpiffeId("other.example", "/b"), owner=None)
    kept.store.put(AGENT)
    kept.store.put(bare)
    await kept.barrier()
    assert list(await kept.store.list()) == [bare, AGENT]
    assert list(await (await kept.again()).list()) == [bare, AGENT]


async def test_the_last_state_that_was_put_counts(kept: Kept) -> None:
    kept.store.put(AGENT)
    kept.store.put(replace(AGENT, state=AgentState.SUSPENDED))
    last = replace(AGENT, state=AgentState.RETIRED, owner="user:bob", templates=())
    kept.store.put(last)
    assert list(await kept.store.list()) == [last]
    await kept.barrier()
    assert list(await (await kept.again()).list()) == [last]


async def test_agents_are_listed_by_name(kept: Kept) -> None:
    for name in ("b", "a-2", "a", "0"):
        kept.store.put(
            replace(AGENT, name=name, spiffe_id=SpiffeId("test.example", f"/agent/{name}"))
        )
    assert [agent.name for agent in await kept.store.list()] == ["0", "a", "a-2", "b"]
