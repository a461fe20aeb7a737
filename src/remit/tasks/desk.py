"""The task desk: opens tasks under signed mandates, measures calls against them, closes them.

Open tasks live in memory and are checked and changed without an await in between, so that two
calls never take the same budget and none slips in behind a close. Every change is staged to the
store in the same breath.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from remit.model.call import Call
from remit.model.errors import (
    ConflictError,
    MandateError,
    NotFoundError,
    RemitError,
)
from remit.model.label import Label
from remit.model.mandate import Template
from remit.model.record import Context, Recorder
from remit.model.subject import Agent, Claim, Subject
from remit.model.task import Bounds, Task, TaskState
from remit.tasks import budgets, chains, delegating, opening
from remit.tasks.delegating import (
    DelegationLimits,
    NoAgents,
    require_delegators,
    require_holder,
)
from remit.tasks.ending import Endings
from remit.tasks.live import LiveTask
from remit.tasks.opening import Asked
from remit.tasks.ports import Agents, Clock, Signer, TaskStore
from remit.tasks.possession import key_asked, key_of, require_key
from remit.tasks.request import Opened, TaskRequest
from remit.tasks.sessions import Sessions
from remit.tasks.steps import bound, delegated, opened
from remit.tasks.taking_up import take_up
from remit.tasks.templates import withdrawn
from remit.tasks.token import issue_token, token_of


class TaskDesk:
    """Opens, delegates, admits, measures, spends, settles and closes tasks."""

    def __init__(
        self,
        *,
        store: TaskStore,
        signer: Signer,
        recorder: Recorder,
        clock: Clock,
        templates: Mapping[str, Template],
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        close_wait_seconds: float = 10.0,
        max_open_per_agent: int = 1000,
        require_proof: bool = False,
        agents: Agents | None = None,
        delegation: DelegationLimits | None = None,
    ) -> None:
        self._store = store
        self._signer = signer
        self._recorder = recorder
        self._clock = clock
        self._templates = dict(templates)
        self._randomness = randomness
        self._max_open = max_open_per_agent
        self._require_proof = require_proof
        self._agents = agents or NoAgents()
        self._delegation = delegation or DelegationLimits()
        self._open: dict[str, LiveTask] = {}
        self._late: dict[str, LiveTask] = {}
        self._sessions = Sessions()
        self._endings = Endings(
            open_tasks=self._open,
            late=self._late,
            sessions=self._sessions,
            store=store,
            recorder=recorder,
            clock=clock,
            wait_seconds=close_wait_seconds,
        )

    async def load(self) -> None:
        """Take up the open tasks of the store, after a start.

        What was taken by calls in flight when the process died stays taken. A task whose stored
        mandate no longer verifies is taken up to be closed, and admits nothing; so is one whose
        parent is not open, see :meth:`disowned`.
        """
        found = await take_up(self._store, self._signer, self._clock(), self._in_force)
        self._open.update(found)

    async def open(
        self, request: TaskRequest, *, agent: Agent, opened_by: str, key: str | None = None
    ) -> Opened:
        """Open a task for ``agent``: recorded and durable when this returns.

        ``key`` is what the agent showed possession of, where it is the one who asks.

        Raises:
            MandateError: the agent may not open tasks under this template, or not for that person,
                or does not show a key where it has to.
            InputError: the request asks for more than the template has, or is too large.
            EvidenceError: it could not be made durable; no task was opened.
        """
        template = opening.template_for(request, agent, self._templates)
        on_behalf_of = opening.beneficiary(request, agent, opened_by)
        by_agent = opened_by == str(agent.spiffe_id)
        key = key_asked(request, key, required=by_agent and self._require_proof)
        return await self._begin(
            Asked(
                request=request,
                template=template,
                agent=agent,
                on_behalf_of=on_behalf_of,
                opened_by=opened_by,
                key=key,
            )
        )

    async def delegate(
        self, request: TaskRequest, *, parent: str, agent: Agent, opened_by: str
    ) -> Opened:
        """Give ``agent`` a part of an open task: recorded in both chains and durable.

        Whoever calls this has made sure that ``opened_by`` may: it holds the parent's token, or is a
        person who may end the parent. The key of the parent is not the child's.

        Raises:
            MandateError: the parent admits nothing, or not this agent, template or beneficiary.
            InputError: the request asks for more than template and parent have.
            ConflictError: too many tasks are open below the parent, or for the agent.
            EvidenceError: it could not be made durable; nothing was delegated.
        """
        above = self._open.get(parent)
        if above is None or above.is_over(self._clock()):
            raise MandateError(await self._why_not(parent))
        require_delegators(above, self._agents, own=True)
        template = opening.template_for(request, agent, self._templates)
        on_behalf_of = delegating.beneficiary(request, above.task)
        delegating.require_taker(above, agent, self._delegation)
        asked = Asked(
            request=request,
            template=template,
            agent=agent,
            on_behalf_of=on_behalf_of,
            opened_by=opened_by,
            key=request.key,
            above=above.task,
        )
        child = await self._begin(asked, above)
        if not self.is_open(child.task.id):
            raise MandateError("the task ended while a part of it was being delegated")
        return child

    async def _begin(self, asked: Asked, above: LiveTask | None = None) -> Opened:
        self._require_room(asked.agent)
        drawn = opening.draw(
            asked, signer=self._signer, clock=self._clock, randomness=self._randomness
        )
        task = drawn.task
        known = asyncio.Event()
        live = LiveTask(task, above=() if above is None else above.chain, opened=known)
        live.token = issue_token(self._signer, task)
        self._open[task.id] = live
        try:
            follows: tuple[str, ...] = ()
            if above is not None:
                # Below its parent from here on: an end of the parent is this one's, too.
                above.below.append(live)
                follows = (self._recorder.stage(delegated(task), Context(task=above.task.id)),)
            step = opened(task, drawn.salt, asked.request.prompt)
            self._recorder.stage(step, Context(task=task.id, parents=follows))
            self._store.put(task)
            await self._recorder.barrier()
        except RemitError:
            # Cancelled is not lost: a task that became durable stays, and expires unused.
            self._open.pop(task.id, None)
            if above is not None:
                above.below.remove(live)
            raise
        finally:
            known.set()
        return Opened(live.standing(), live.token)

    async def admit(self, claim: Claim, subject: Subject) -> Task:
        """Return the open task whose token the claim carries.

        A task that is bound to no key yet is bound to the one that the subject shows.

        Raises:
            MandateError: no token, one that does not hold, another workload's, one of a task that
                is not open, or of one whose key the subject does not show.
        """
        token = token_of(claim, subject, self._signer)
        live = self._open.get(token.task)
        if live is None or live.is_over(self._clock()):
            raise MandateError(await self._why_not(token.task))
        if live.task.mandate.workload != subject.workload:
            raise MandateError("the task is another workload's")
        if token.key is not None and token.key != live.task.key:
            raise MandateError("the task token is bound to another key than its task")
        require_delegators(live, self._agents)
        self.require_key(live.task, subject)
        self._bind(live, subject)
        return live.standing()

    def require_key(self, task: Task, subject: Subject) -> None:
        """Raise unless the subject shows the key that the task is bound to.

        Raises:
            MandateError: it shows none, or another.
        """
        require_key(task, subject, required=self._require_proof)

    def _bind(self, live: LiveTask, subject: Subject) -> None:
        if live.task.key is None and subject.key is not None:
            live.task = replace(live.task, key=key_of(subject))
            live.token = None
            self._recorder.stage(bound(live.task), Context(task=live.task.id))
            self._store.put(live.task)

    def bind_current(self, session_key: str, task_id: str) -> None:
        """Make a task the current one of a plain MCP client's session.

        Raises:
            NotFoundError: the task is not open.
        """
        if not self.is_open(task_id):
            raise NotFoundError(f"task `{task_id[:64]}` is not open")
        self._sessions.bind(session_key, task_id)

    def current(self, session_key: str) -> str | None:
        """Return the token of the session's current task, or None where there is none open."""
        live = self._open.get(self._sessions.task_of(session_key) or "")
        if live is None or live.ending:
            return None
        if live.token is None:
            live.token = issue_token(self._signer, live.task)
        return live.token

    def measure(self, task: Task, call: Call) -> Bounds:
        """Say how a call stands against every mandate of its chain, as they and all else are now."""
        live, now = self._open.get(task.id), self._clock()
        if live is None:
            return chains.measure([(each, 0.0) for each in task.chain], call)
        return chains.measure([(up.task, up.running_seconds(now)) for up in live.chain], call)

    def spend(self, task_id: str, call: Call) -> None:
        """Take what the call costs and mark it in flight, at once or not at all.

        It is taken from the task and from every task above it.

        Raises:
            MandateError: the task is closed or expired, its agent or one above is not active, another
                call took the rest, or the call's cost cannot be counted.
            ConflictError: the call is in flight already.
        """
        live = self._admitting(task_id)
        budgets.take(live, call, self._clock())
        for each in live.chain:
            self._store.put(each.task)

    def require_open(self, task_id: str) -> None:
        """Raise unless the task still admits calls.

        Raises:
            MandateError: it was closed, or has expired, or its agent or one above is not active.
        """
        self._admitting(task_id)

    def settle(self, task_id: str, call: Call, *, seconds: float, label: Label) -> None:
        """End a call's flight: add its seconds, join its label, here and in every task above.

        Only the first time counts. A call that outlasts its task's end is still counted, and opens nothing again.
        """
        live = self._open.get(task_id) or self._late.get(task_id)
        if live is None or call.id not in live.in_flight:
            return
        budgets.land(live, call, seconds=seconds, label=label)
        for each in live.chain:
            if not each.in_flight:
                self._late.pop(each.task.id, None)
            self._store.put(each.task)

    async def close(self, task_id: str, state: TaskState, by: str) -> Task:
        """End a task and every task below it, and return the former: see :meth:`close_tree`."""
        return (await self.close_tree(task_id, state, by))[-1]

    async def close_tree(
        self, task_id: str, state: TaskState, by: str, *, ended_with: str | None = None
    ) -> Sequence[Task]:
        """End a task and every task below it, the deepest first; return them in that order.

        Nothing new is admitted from the first line on. Calls in flight are waited for, as long as
        ``close_wait_seconds``. A caller that goes away does not stop the end. ``ended_with`` names
        the task above whose end, or whose agent's, is the reason.

        Raises:
            NotFoundError: there is no such task.
            ConflictError: it is closed, or being closed.
            EvidenceError: its end could not be made durable; it admits nothing all the same, and
                can be closed again.
        """
        live = self._open.get(task_id)
        if live is None:
            known = await self.get(task_id)
            raise ConflictError(f"task `{task_id}` is {known.state.value} already")
        return await self._endings.end(live, state, by, ended_with)

    def due(self, now: datetime) -> Sequence[str]:
        """Return the open tasks past their expiry, without those that end with one above."""
        return [
            task_id
            for task_id, live in self._open.items()
            if live.expires_at() <= now
            and not live.closing
            and not any(up.closing or up.expires_at() <= now for up in live.above)
        ]

    def disowned(self) -> Sequence[tuple[str, str]]:
        """Return the delegated tasks that are to end, each with the task it was delegated from.

        That is not open any more, or its agent is not active. Those below one of them are left out.
        """
        return delegating.disowned(list(self._open.values()), self._agents)

    def is_open(self, task_id: str) -> bool:
        """Say whether the task still admits calls."""
        live = self._open.get(task_id)
        if live is None or any(each.ending for each in live.chain):
            return False
        try:
            require_delegators(live, self._agents)
        except MandateError:
            return False
        return True

    @property
    def open_count(self) -> int:
        """How many tasks are open."""
        return len(self._open)

    async def get(self, task_id: str) -> Task:
        """Return one task.

        Raises:
            NotFoundError: there is no such task.
        """
        live = self._open.get(task_id)
        if live is not None:
            return live.standing()
        task = await self._store.get(task_id)
        if task is None:
            raise NotFoundError(f"there is no task `{task_id[:64]}`")
        return task

    async def list(
        self,
        *,
        state: TaskState | None = None,
        agent: str | None = None,
        parent: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Sequence[Task]:
        """Return tasks, newest first; ``agent`` is an agent's name, ``parent`` a task's id."""
        return await self._store.list(
            state=state, agent=agent, parent=parent, limit=limit, after=after
        )

    @property
    def templates(self) -> Mapping[str, Template]:
        """The templates in force, by name."""
        return self._templates

    def replace_templates(self, templates: Mapping[str, Template]) -> None:
        """Put other templates in force, at once, for the tasks that run too."""
        self._templates = dict(templates)
        for live in self._open.values():
            live.task = replace(live.task, template=self._in_force(live.task))

    def _in_force(self, task: Task) -> Template:
        return self._templates.get(task.mandate.template) or withdrawn(task.template)

    def _require_room(self, agent: Agent) -> None:
        count = sum(live.task.mandate.workload == agent.spiffe_id for live in self._open.values())
        if count >= self._max_open:
            raise ConflictError(f"agent `{agent.name}` has {count} open tasks: complete some")

    def _admitting(self, task_id: str) -> LiveTask:
        live = self._open.get(task_id)
        if live is None or any(each.ending for each in live.chain):
            raise MandateError("the task was closed while the call was under way")
        if live.expires_at() <= self._clock():
            raise MandateError("the task has expired")
        require_holder(live, self._agents)
        require_delegators(live, self._agents)
        return live

    async def _why_not(self, task_id: str) -> str:
        live = self._open.get(task_id)
        if live is not None:
            closing = any(each.ending for each in live.chain)
            return "the task is being closed" if closing else "the task has expired"
        try:
            state = (await self.get(task_id)).state.value
        except NotFoundError:
            return "there is no such task"
        return f"the task is {state}: open a new one"
