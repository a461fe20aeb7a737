"""Delegation: who may be given a part of a task, and what of it.

- A delegated task only narrows. What is asked for beyond the parent's mandate is refused here, so
  that it is told early; what bounds the calls is that each is held against every mandate of the
  chain (``chains.py``).
- On whose behalf a task runs is the root's, and never changes.
- No workload is twice in a chain. Whoever has a mandate needs no second one beneath it, and could
  choose the laxer of two; agents that hand a task round and round would never come to an end.
- A chain has an end, and a task only so many open tasks below it, at all depths together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from remit.model.errors import ConflictError, InputError, MandateError
from remit.model.mandate import Capability, Mandate, Parent
from remit.model.subject import Agent, AgentState
from remit.model.task import Task
from remit.tasks.live import LiveTask
from remit.tasks.mandates import covers
from remit.tasks.ports import Agents
from remit.tasks.request import TaskRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationLimits:
    """How many delegations a chain may have, and how many open tasks may be below any one task."""

    depth: int = 4
    tasks: int = 32


class NoAgents:
    """Knows no agent: nothing that was delegated admits anything."""

    def by_id(self, _: object) -> None:
        """Return that there is none."""


def require_delegators(live: LiveTask, agents: Agents, *, own: bool = False) -> None:
    """Raise unless every agent above is active, and with ``own`` the task's own as well.

    Raises:
        MandateError: one is not; says which.
    """
    for each in live.chain if own else live.above:
        workload = each.task.mandate.workload
        agent = agents.by_id(workload)
        if agent is None or agent.state is not AgentState.ACTIVE:
            state = "not registered" if agent is None else agent.state.value
            raise MandateError(
                f"the task is delegated by agent `{each.task.mandate.agent}`, which is {state}"
            )


def require_holder(live: LiveTask, agents: Agents) -> None:
    """Raise where the task's own agent was suspended or retired since it was identified.

    Raises:
        MandateError: it was; says so.
    """
    agent = agents.by_id(live.task.mandate.workload)
    if agent is not None and agent.state is not AgentState.ACTIVE:
        raise MandateError(f"the task is of agent `{agent.name}`, which is {agent.state.value}")


def require_taker(parent: LiveTask, agent: Agent, limits: DelegationLimits) -> None:
    """Raise unless a part of the parent may be given to this agent.

    Raises:
        MandateError: it is in the chain already, or the chain is as long as it may be.
        ConflictError: the parent, or a task above it, has as many tasks below it as it may have.
    """
    if any(each.task.mandate.workload == agent.spiffe_id for each in parent.chain):
        raise MandateError(
            f"agent `{agent.name}` is in the chain already: it acts under the task that it has"
        )
    if len(parent.chain) > limits.depth:
        raise MandateError(
            f"the task is {len(parent.above)} delegations deep, and a chain has at most "
            f"{limits.depth} delegations: whoever holds it does the work"
        )
    for each in parent.chain:
        below = len(each.tree()) - 1
        if below >= limits.tasks:
            raise ConflictError(
                f"task `{each.task.id}` has {below} open tasks below it: complete some first"
            )


def disowned(open_tasks: Sequence[LiveTask], agents: Agents) -> Sequence[tuple[str, str]]:
    """Return the delegated tasks that are to end, each with the task it was delegated from.

    That is not open any more, or its agent is not active. Those below one of them are left out.
    """
    found: dict[LiveTask, str] = {}
    for live in open_tasks:
        parent = live.task.mandate.parent
        if parent is None or live.closing:
            continue
        agent = agents.by_id(parent.workload)
        if not live.above or agent is None or agent.state is not AgentState.ACTIVE:
            found[live] = parent.task
    return [
        (one.task.id, up) for one, up in found.items() if not any(a in found for a in one.above)
    ]


def beneficiary(request: TaskRequest, parent: Task) -> str:
    """Return on whose behalf the root runs.

    Raises:
        MandateError: somebody else is named.
    """
    whose = parent.mandate.on_behalf_of
    if request.on_behalf_of not in {None, whose}:
        raise MandateError(f"a delegated task runs on behalf of whom its root does, `{whose}`")
    return whose


def within(mandate: Mandate, request: TaskRequest, parent: Task) -> Mandate:
    """Return a mandate inside its template, inside its parent's mandate as well.

    Raises:
        InputError: the request asks for what the parent does not have.
    """
    above = parent.mandate
    return replace(
        mandate,
        parent=Parent(task=parent.id, mandate=parent.mandate_digest, workload=above.workload),
        capabilities=_capabilities(mandate, request, above),
        environments=_common(
            "environments", mandate.environments, above.environments, request.environments
        ),
        egress=_common("egress", mandate.egress, above.egress, request.egress),
        data_ceiling=min(mandate.data_ceiling, above.data_ceiling),
        expires_at=min(mandate.expires_at, above.expires_at),
    )


def names(mandate: Mandate, parent: Task) -> bool:
    """Say whether a mandate was delegated from exactly this task, on the same person's behalf."""
    named, above = mandate.parent, parent.mandate
    return (
        named == Parent(task=parent.id, mandate=parent.mandate_digest, workload=above.workload)
        and mandate.on_behalf_of == above.on_behalf_of
    )


def _capabilities(mandate: Mandate, request: TaskRequest, above: Mandate) -> tuple[Capability, ...]:
    if request.capabilities is None:
        shared = tuple(c for c in mandate.capabilities if _shares(c, above))
        if not shared:
            raise InputError(
                f"template `{mandate.template}` and the parent's mandate have no capability in common"
            )
        return shared
    for asked in request.capabilities:
        if not any(covers(c, asked.action, asked.target) for c in above.capabilities):
            raise InputError(
                f"the parent's mandate does not allow `{asked.target}`: "
                "a delegated task can only narrow its parent"
            )
    return mandate.capabilities


def _shares(capability: Capability, above: Mandate) -> bool:
    """Say whether the parent's mandate allows some of what a capability names."""
    return any(
        covers(c, capability.action, capability.target) or covers(capability, c.action, c.target)
        for c in above.capabilities
    )


def _common(
    name: str, mine: Sequence[T], above: Sequence[T], asked: Sequence[T] | None
) -> tuple[T, ...]:
    for each in asked or ():
        if each not in above:
            raise InputError(f"the parent's `{name}` do not hold `{each}`")
    return tuple(each for each in mine if each in above)
