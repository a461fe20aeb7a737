from __future__ import annotations

import asyncio
from typing import Any

import pytest

from remit.identity.registry import Registry
from remit.model.errors import ConflictError, EvidenceError, InputError, NotFoundError
from remit.model.subject import AgentState, Environment, SpiffeId
from remit.testing.evidence import MemoryRecorder
from remit.testing.identity import ManualClock, MemoryAgents


class Room:
    def __init__(self, store: MemoryAgents | None = None) -> None:
        self.store = store or MemoryAgents()
        self.recorder = MemoryRecorder()
        self.registry = Registry(
            self.store, self.recorder, trust_domain="test.example", clock=ManualClock()
        )

    async def register(self, name: str = "support", **changes: Any) -> Any:
        fields: dict[str, Any] = {
            "by": "user:op",
            "owner": "user:ann",
            "purpose": "drafts",
            "environment": Environment.DEV,
        }
        return await self.registry.register(name, **{**fields, **changes})


@pytest.fixture
def room() -> Room:
    return Room()


async def test_a_registered_agent_is_active_recorded_and_found_by_name_and_id(room: Room) -> None:
    agent = await room.register(templates=["a", "b", "a"], autonomy=3)
    assert agent.state is AgentState.ACTIVE
    assert agent.spiffe_id == SpiffeId("test.example", "/agent/support")
    assert agent.templates == ("a", "b")
    assert room.registry.get("support") is agent
    assert room.registry.by_id(agent.spiffe_id) is agent
    assert room.recorder.kinds == ["agent.registered"]
    assert room.recorder.durable == 1
    body = room.recorder.records[0][0].body
    assert (body["owner"], body["by"], body["state"]) == ("user:ann", "user:op", "active")


@pytest.mark.parametrize("owner", [None, ""])
async def test_an_agent_without_an_owner_is_not_active_and_cannot_be_resumed(
    room: Room, owner: str | None
) -> None:
    agent = await room.register(owner=owner)
    assert agent.state is AgentState.SUSPENDED
    with pytest.raises(ConflictError, match="no owner"):
        await room.registry.resume("support", "user:op")
    await room.registry.update("support", by="user:op", owner="user:ann")
    assert (await room.registry.resume("support", "user:op")).state is AgentState.ACTIVE
    assert room.recorder.kinds == ["agent.registered", "agent.updated", "agent.resumed"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "Support"},
        {"name": "a" * 64},
        {"name": "a/b"},
        {"name": "a\n"},
        {"name": ".."},
        {"autonomy": -1},
        {"autonomy": 5},
        {"autonomy": True},
        {"owner": "two\nlines"},
        {"owner": " ann"},
        {"owner": "a" * 2000},
        {"purpose": "two\nlines"},
        {"purpose": "\x1b[31mred"},
        {"purpose": "a" * 2000},
        {"templates": "support.reply"},
        {"templates": ["../x"]},
        {"templates": [""]},
        {"templates": ["a"] * 300},
        {"gateway_templates": ["a b"]},
        {"spiffe_id": SpiffeId("test.example")},
    ],
)
async def test_a_field_that_breaks_a_rule_changes_nothing(
    room: Room, changes: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        await room.register(**changes)
    assert room.registry.list() == []
    assert room.recorder.records == []
    assert room.store.agents == {}


async def test_a_name_and_an_id_are_taken_for_good(room: Room) -> None:
    await room.register()
    await room.registry.retire("support", "user:op")
    with pytest.raises(ConflictError, match="registered already"):
        await room.register()
    with pytest.raises(ConflictError, match="belongs to agent `support`"):
        await room.register("other", spiffe_id=SpiffeId("test.example", "/agent/support"))


async def test_of_two_that_register_one_name_at_once_one_is_refused(room: Room) -> None:
    answers = await asyncio.gather(
        room.register(), room.register(owner="user:bob"), return_exceptions=True
    )
    assert [type(a).__name__ for a in answers] == ["Agent", "ConflictError"]
    assert room.recorder.kinds == ["agent.registered"]


async def test_states_move_as_they_may_and_retired_is_final(room: Room) -> None:
    registry = room.registry
    await room.register()
    with pytest.raises(ConflictError, match="is active"):
        await registry.resume("support", "user:op")
    await registry.suspend("support", "user:op")
    with pytest.raises(ConflictError, match="is suspended"):
        await registry.suspend("support", "user:op")
    await registry.resume("support", "user:op")
    await registry.retire("support", "user:op")
    for step in (registry.suspend, registry.resume, registry.retire):
        with pytest.raises(ConflictError, match="is retired"):
            await step("support", "user:op")
    with pytest.raises(ConflictError, match="retired"):
        await registry.update("support", by="user:op", purpose="other")
    assert room.recorder.kinds == [
        "agent.registered", "agent.suspended", "agent.resumed", "agent.retired",
    ]  # fmt: skip


async def test_an_unknown_agent_is_not_found(room: Room) -> None:
    for step in (room.registry.suspend, room.registry.resume, room.registry.retire):
        with pytest.raises(NotFoundError):
            await step("nobody", "user:op")
    with pytest.raises(NotFoundError):
        await room.registry.update("nobody", by="user:op")


async def test_what_could_not_be_made_durable_did_not_happen(room: Room) -> None:
    await room.register()
    room.recorder.fail = True
    with pytest.raises(EvidenceError):
        await room.register("other")
    with pytest.raises(EvidenceError):
        await room.registry.suspend("support", "user:op")
    with pytest.raises(EvidenceError):
        await room.registry.update("support", by="user:op", autonomy=4)
    agent = room.registry.get("support")
    assert agent is not None
    assert (agent.state, agent.autonomy) == (AgentState.ACTIVE, 1)
    assert room.registry.get("other") is None
    assert room.registry.by_id(SpiffeId("test.example", "/agent/other")) is None
    room.recorder.fail = False
    assert await room.register("other")


async def test_an_agent_is_seen_only_when_durable_and_suspended_before(room: Room) -> None:
    seen: list[object] = []

    class Watched(MemoryRecorder):
        async def barrier(self) -> None:
            agent = room.registry.get("support")
            seen.append(None if agent is None else agent.state)
            await super().barrier()

    room.recorder = Watched()
    room.registry = Registry(
        room.store, room.recorder, trust_domain="test.example", clock=ManualClock()
    )
    await room.register()
    await room.registry.suspend("support", "user:op")
    await room.registry.resume("support", "user:op")
    assert seen == [None, AgentState.SUSPENDED, AgentState.SUSPENDED]


async def test_a_restart_brings_everybody_back(room: Room) -> None:
    agent = await room.register()
    await room.registry.suspend("support", "user:op")
    again = Room(room.store)
    await again.registry.load()
    assert [a.state for a in again.registry.list()] == [AgentState.SUSPENDED]
    assert again.registry.by_id(agent.spiffe_id) is again.registry.get("support")
