"""The agent registry: which workloads are agents, who answers for them, and how far they may go.

The rules it enforces:

- An agent without an owner is not active, and cannot be resumed.
- Retired is final: the name and the SPIFFE ID stay taken, so that evidence never speaks of two.
- A change is durable, with its record, before it widens anything. What narrows (suspend, retire)
  holds from the first line on, and falls back if it could not be made durable.
"""

from __future__ import annotations

import asyncio
import builtins
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from remit.identity.ports import AgentStore
from remit.model.errors import ConflictError, InputError, NotFoundError
from remit.model.record import Context, Recorder, Step
from remit.model.subject import Agent, AgentState, Environment, SpiffeId

Clock = Callable[[], datetime]

_NAME = re.compile(r"[a-z0-9-]{1,63}\Z")
_TEMPLATE = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_MAX_AUTONOMY = 4
_MAX_DEPTH = 16
_MAX_TEXT = 1024
_MAX_TEMPLATES = 256


class Registry:
    """Every registered agent, in memory, written through."""

    def __init__(
        self, store: AgentStore, recorder: Recorder, *, trust_domain: str, clock: Clock
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._trust_domain = trust_domain
        self._clock = clock
        self._agents: dict[str, Agent] = {}
        self._by_id: dict[SpiffeId, str] = {}
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read every agent from the store, once, before anything else."""
        agents = await self._store.list()
        self._agents = {agent.name: agent for agent in agents}
        self._by_id = {agent.spiffe_id: agent.name for agent in agents}

    def get(self, name: str) -> Agent | None:
        """Return the agent of this name."""
        return self._agents.get(name)

    def by_id(self, spiffe_id: SpiffeId) -> Agent | None:
        """Return the agent of this SPIFFE ID."""
        name = self._by_id.get(spiffe_id)
        return None if name is None else self._agents[name]

    def list(self) -> Sequence[Agent]:
        """Return every agent, retired ones too, by name."""
        return [self._agents[name] for name in sorted(self._agents)]

    async def register(
        self,
        name: str,
        *,
        by: str,
        owner: str | None,
        purpose: str,
        environment: Environment,
        autonomy: int = 1,
        templates: Sequence[str] = (),
        gateway_templates: Sequence[str] = (),
        max_depth: int = 4,
        spiffe_id: SpiffeId | None = None,
    ) -> Agent:
        """Register an agent: active with an owner, suspended without one.

        Args:
            name: ``[a-z0-9-]{1,63}``.
            by: who registers it, a person's id.
            owner: the person who answers for it.
            purpose: what it is for, one sentence.
            environment: where it lives.
            autonomy: 0 (suggests only) to 4 (acts unattended).
            templates: the mandate templates that a task of it may be opened under.
            gateway_templates: those it may open itself, with the gateway's own tools.
            max_depth: how many delegations below a root task it may act, 0 to 16.
            spiffe_id: ``spiffe://<trust domain>/agent/<name>`` if None; may be of a federated
                trust domain.

        Raises:
            InputError: a field breaks a rule.
            ConflictError: the name or the SPIFFE ID is taken.
            EvidenceError: it could not be made durable; nothing was registered.
        """
        if not _NAME.match(name):
            raise InputError("an agent's name has 1 to 63 characters of a-z 0-9 -")
        chosen = spiffe_id or SpiffeId(self._trust_domain, f"/agent/{name}")
        if not chosen.path:
            raise InputError(f"`{chosen}` names a trust domain, not a workload")
        agent = Agent(
            name=name,
            spiffe_id=chosen,
            owner=_person(owner),
            purpose=_sentence(purpose),
            environment=environment,
            autonomy=_level(autonomy),
            templates=_names(templates),
            gateway_templates=_names(gateway_templates),
            max_depth=_depth(max_depth),
            state=AgentState.ACTIVE if owner else AgentState.SUSPENDED,
            registered_at=self._clock(),
        )
        async with self._changing:
            if name in self._agents:
                raise ConflictError(f"an agent `{name}` is registered already")
            if chosen in self._by_id:
                raise ConflictError(f"`{chosen}` belongs to agent `{self._by_id[chosen]}`")
            await self._write(agent, "agent.registered", by)
        return agent

    async def update(
        self,
        name: str,
        *,
        by: str,
        owner: str | None = None,
        purpose: str | None = None,
        autonomy: int | None = None,
        templates: Sequence[str] | None = None,
        gateway_templates: Sequence[str] | None = None,
        max_depth: int | None = None,
    ) -> Agent:
        """Change what was registered; what is None stays. The state stays as it is.

        Raises:
            NotFoundError: there is no such agent.
            InputError: a field breaks a rule.
            ConflictError: the agent is retired.
            EvidenceError: it could not be made durable; nothing was changed.
        """
        async with self._changing:
            agent = self._there(name)
            if agent.state is AgentState.RETIRED:
                raise ConflictError(f"agent `{name}` is retired, which is final")
            changed = replace(
                agent,
                owner=agent.owner if owner is None else _person(owner),
                purpose=agent.purpose if purpose is None else _sentence(purpose),
                autonomy=agent.autonomy if autonomy is None else _level(autonomy),
                templates=agent.templates if templates is None else _names(templates),
                gateway_templates=(
                    agent.gateway_templates
                    if gateway_templates is None
                    else _names(gateway_templates)
                ),
                max_depth=agent.max_depth if max_depth is None else _depth(max_depth),
            )
            await self._write(changed, "agent.updated", by)
        return changed

    async def suspend(self, name: str, by: str) -> Agent:
        """Suspend an agent: it is refused from now on, until resumed.

        Raises:
            NotFoundError: there is no such agent.
            ConflictError: it is not active.
            EvidenceError: it could not be made durable; the agent is as it was.
        """
        return await self._move(name, AgentState.SUSPENDED, (AgentState.ACTIVE,), by)

    async def resume(self, name: str, by: str) -> Agent:
        """Let a suspended agent act again.

        Raises:
            NotFoundError: there is no such agent.
            ConflictError: it is not suspended, or it has no owner.
            EvidenceError: it could not be made durable; the agent is as it was.
        """
        return await self._move(name, AgentState.ACTIVE, (AgentState.SUSPENDED,), by)

    async def retire(self, name: str, by: str) -> Agent:
        """Retire an agent for good.

        Raises:
            NotFoundError: there is no such agent.
            ConflictError: it is retired already.
            EvidenceError: it could not be made durable; the agent is as it was.
        """
        return await self._move(
            name, AgentState.RETIRED, (AgentState.ACTIVE, AgentState.SUSPENDED), by
        )

    async def _move(
        self, name: str, state: AgentState, allowed: builtins.tuple[AgentState, ...], by: str
    ) -> Agent:
        async with self._changing:
            agent = self._there(name)
            if agent.state not in allowed:
                raise ConflictError(f"agent `{name}` is {agent.state.value}")
            if state is AgentState.ACTIVE and agent.owner is None:
                raise ConflictError(f"agent `{name}` has no owner, so it cannot be active")
            verb = "resumed" if state is AgentState.ACTIVE else state.value
            moved = replace(agent, state=state)
            if state is not AgentState.ACTIVE:
                self._agents[name] = moved
            try:
                await self._write(moved, f"agent.{verb}", by)
            except BaseException:
                self._agents[name] = agent
                raise
        return moved

    async def _write(self, agent: Agent, kind: str, by: str) -> None:
        """Make a change and its record durable, then let it be seen."""
        self._recorder.stage(Step(kind, _body(agent, by)), Context())
        self._store.put(agent)
        await self._recorder.barrier()
        self._agents[agent.name] = agent
        self._by_id[agent.spiffe_id] = agent.name

    def _there(self, name: str) -> Agent:
        agent = self._agents.get(name)
        if agent is None:
            raise NotFoundError("there is no agent of this name")
        return agent


def _body(agent: Agent, by: str) -> dict[str, str | int | builtins.list[str] | None]:
    return {
        "agent": agent.name,
        "spiffe_id": str(agent.spiffe_id),
        "owner": agent.owner,
        "purpose": agent.purpose,
        "environment": agent.environment.value,
        "autonomy": agent.autonomy,
        "templates": builtins.list(agent.templates),
        "gateway_templates": builtins.list(agent.gateway_templates),
        "max_depth": agent.max_depth,
        "state": agent.state.value,
        "by": by,
    }


def _person(owner: str | None) -> str | None:
    if not owner:
        return None
    if len(owner) > _MAX_TEXT or not owner.isprintable() or owner != owner.strip():
        raise InputError("an owner is a person's id: short, printable, without spaces around it")
    return owner


def _sentence(purpose: str) -> str:
    if len(purpose) > _MAX_TEXT or not purpose.isprintable():
        raise InputError(f"a purpose is one line of at most {_MAX_TEXT} characters")
    return purpose


def _level(autonomy: int) -> int:
    if isinstance(autonomy, bool) or not 0 <= autonomy <= _MAX_AUTONOMY:
        raise InputError(f"autonomy runs from 0 to {_MAX_AUTONOMY}")
    return autonomy


def _depth(depth: int) -> int:
    if isinstance(depth, bool) or not 0 <= depth <= _MAX_DEPTH:
        raise InputError(f"max_depth runs from 0 to {_MAX_DEPTH}")
    return depth


def _names(templates: Sequence[str]) -> tuple[str, ...]:
    if isinstance(templates, str) or len(templates) > _MAX_TEMPLATES:
        raise InputError(f"at most {_MAX_TEMPLATES} templates, as a list")
    for name in templates:
        if not _TEMPLATE.match(name):
            raise InputError("a template's name has 1 to 128 characters of A-Z a-z 0-9 . _ -")
    return tuple(dict.fromkeys(templates))
