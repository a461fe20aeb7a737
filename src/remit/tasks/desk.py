"""The task desk: opens tasks under signed mandates, measures calls against them, closes them.

Open tasks live in memory and are checked and changed without an await in between, so that two
calls never take the same budget and none slips in behind a close. Every change is staged to the
store in the same breath.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from remit.model.call import Call
from remit.model.errors import (
    ConflictError,
    MandateError,
    NotFoundError,
    RemitError,
)
from remit.model.ids import new_id
from remit.model.label import Label
from remit.model.mandate import Template
from remit.model.record import Context, Recorder
from remit.model.subject import Agent, Claim, Subject
from remit.model.task import Bounds, Task, TaskState
from remit.tasks import bounds, budgets, opening
from remit.tasks.live import LiveTask
from remit.tasks.mandates import (
    MANDATE_TYP,
    from_claims,
    narrowed,
)
from remit.tasks.ports import Clock, Signer, TaskStore
from remit.tasks.possession import key_asked, key_of, require_key
from remit.tasks.request import Opened, TaskRequest
from remit.tasks.sessions import Sessions
from remit.tasks.steps import bound, ended, opened
from remit.tasks.templates import withdrawn
from remit.tasks.token import issue_token, token_of

log = structlog.get_logger()

_SALT_BYTES = 16
_ID_BYTES = 10
_PAGE = 500


class TaskDesk:
    """Opens, admits, measures, spends, settles and closes tasks."""

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
    ) -> None:
        self._store = store
        self._signer = signer
        self._recorder = recorder
        self._clock = clock
        self._templates = dict(templates)
        self._randomness = randomness
        self._close_wait_seconds = close_wait_seconds
        self._max_open = max_open_per_agent
        self._require_proof = require_proof
        self._open: dict[str, LiveTask] = {}
        self._late: dict[str, LiveTask] = {}
        self._endings: set[asyncio.Future[Task]] = set()
        self._sessions = Sessions()

    async def load(self) -> None:
        """Take up the open tasks of the store, after a start.

        What was taken by calls in flight when the process died stays taken. A task whose stored
        mandate no longer verifies is taken up to be closed, and admits nothing.
        """
        after = None
        while True:
            page = await self._store.list(state=TaskState.OPEN, limit=_PAGE, after=after)
            for task in page:
                live = LiveTask(replace(task, template=self._in_force(task)))
                live.ending = not self._vouched(task)
                self._open[task.id] = live
            if len(page) < _PAGE:
                return
            after = page[-1].id

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
        self._require_room(agent)
        now = self._clock()
        task_id = new_id("task", now, self._randomness(_ID_BYTES))
        salt = self._randomness(_SALT_BYTES)
        mandate = narrowed(
            template,
            request,
            task_id=task_id,
            agent=agent,
            on_behalf_of=on_behalf_of,
            opened_by=opened_by,
            prompt=opening.prompt_digest(salt, request.prompt),
            now=now,
        )
        task = opening.signed(mandate, template, key, self._signer)
        live = LiveTask(task)
        live.token = issue_token(self._signer, task)
        self._open[task.id] = live
        try:
            self._recorder.stage(opened(task, salt, request.prompt), Context(task=task.id))
            self._store.put(task)
            await self._recorder.barrier()
        except RemitError:
            # Cancelled is not lost: a task that became durable stays, and expires unused.
            self._open.pop(task.id, None)
            raise
        return Opened(task, live.token)

    async def admit(self, claim: Claim, subject: Subject) -> Task:
        """Return the open task whose token the claim carries.

        A task that is bound to no key yet is bound to the one that the subject shows.

        Raises:
            MandateError: no token, one that does not hold, another workload's, one of a task that
                is not open, or of one whose key the subject does not show.
        """
        token = token_of(claim, subject, self._signer)
        live = self._open.get(token.task)
        if live is None or live.ending or live.expires_at() <= self._clock():
            raise MandateError(await self._why_not(token.task))
        if live.task.mandate.workload != subject.workload:
            raise MandateError("the task is another workload's")
        if token.key is not None and token.key != live.task.key:
            raise MandateError("the task token is bound to another key than its task")
        self.require_key(live.task, subject)
        self._bind(live, subject)
        return live.task

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
        """Say how a call stands against mandate, template and budget, as they are now."""
        live = self._open.get(task.id)
        if live is None:
            return bounds.measure(task, call)
        running = live.running_seconds(self._clock())
        return bounds.measure(live.task, call, running_seconds=running)

    def spend(self, task_id: str, call: Call) -> None:
        """Take what the call costs and mark it in flight, at once or not at all.

        Raises:
            MandateError: the task is closed or expired, another call took the rest, or the call's
                cost cannot be counted.
            ConflictError: the call is in flight already.
        """
        live = self._admitting(task_id)
        budgets.take(live, call, self._clock())
        self._store.put(live.task)

    def require_open(self, task_id: str) -> None:
        """Raise unless the task still admits calls.

        Raises:
            MandateError: it was closed, or has expired.
        """
        self._admitting(task_id)

    def settle(self, task_id: str, call: Call, *, seconds: float, label: Label) -> None:
        """End a call's flight: add its seconds, join its label. Only the first time counts.

        A call that outlasts its task's end is still counted, and opens nothing again.
        """
        live = self._open.get(task_id) or self._late.get(task_id)
        if live is None or call.id not in live.in_flight:
            return
        budgets.land(live, call, seconds=seconds, label=label)
        if not live.in_flight:
            self._late.pop(task_id, None)
        self._store.put(live.task)

    async def close(self, task_id: str, state: TaskState, by: str) -> Task:
        """End a task; nothing new is admitted from the first line on.

        Calls in flight are waited for, as long as ``close_wait_seconds``. A caller that goes away
        does not stop the end.

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
        if live.closing:
            raise ConflictError(f"task `{task_id}` is being closed")
        live.ending = live.closing = True
        ending = asyncio.ensure_future(self._end(live, state, by))
        self._endings.add(ending)
        ending.add_done_callback(self._ended)
        return await asyncio.shield(ending)

    async def _end(self, live: LiveTask, state: TaskState, by: str) -> Task:
        task_id = live.task.id
        try:
            if live.in_flight:
                with contextlib.suppress(TimeoutError):  # its answer will find the task closed
                    async with asyncio.timeout(self._close_wait_seconds):
                        await live.idle.wait()
            closed = replace(live.task, state=state, closed_at=self._clock(), closed_by=by)
            landed = await self._landed(live)
            if landed is not None:
                closed = replace(
                    closed,
                    state=landed.state,
                    closed_at=landed.closed_at,
                    closed_by=landed.closed_by,
                )
            # From here on a late answer settles into the closed task, not over it.
            live.task = closed
            if landed is None:
                live.staged_end = (self._recorder.epoch, closed)
                self._recorder.stage(ended(closed), Context(task=task_id))
            self._store.put(closed)
            await self._recorder.barrier()
        except BaseException:
            live.task = replace(live.task, state=TaskState.OPEN, closed_at=None, closed_by=None)
            live.closing = False
            raise
        self._open.pop(task_id, None)
        if live.in_flight:
            self._late[task_id] = live
        self._sessions.release(task_id)
        return live.task

    async def _landed(self, live: LiveTask) -> Task | None:
        """Return the end that an earlier attempt wrote after all: a task ends once in the log."""
        if live.staged_end is None:
            return None
        epoch, closed = live.staged_end
        await self._recorder.barrier()
        return closed if self._recorder.epoch == epoch else None

    def _ended(self, ending: asyncio.Future[Task]) -> None:
        self._endings.discard(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:
            log.warning("a task could not be closed", reason=str(error))

    def due(self, now: datetime) -> Sequence[str]:
        """Return the open tasks past their expiry."""
        return [
            task_id
            for task_id, live in self._open.items()
            if live.expires_at() <= now and not live.closing
        ]

    def is_open(self, task_id: str) -> bool:
        """Say whether the task still admits calls."""
        live = self._open.get(task_id)
        return live is not None and not live.ending

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
            return live.task
        task = await self._store.get(task_id)
        if task is None:
            raise NotFoundError(f"there is no task `{task_id[:64]}`")
        return task

    async def list(
        self,
        *,
        state: TaskState | None = None,
        agent: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Sequence[Task]:
        """Return tasks, newest first; ``agent`` is an agent's name."""
        return await self._store.list(state=state, agent=agent, limit=limit, after=after)

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

    def _vouched(self, task: Task) -> bool:
        """Return whether the stored mandate is one this authority signed; an expired one is due."""
        if task.mandate.expires_at <= self._clock():
            return True
        try:
            claims = self._signer.verify(task.signed_mandate, typ=MANDATE_TYP)
            vouched = from_claims(claims) == task.mandate
        except RemitError:
            vouched = False
        if not vouched:
            log.error("a stored mandate does not verify: its task admits nothing", task=task.id)
        return vouched

    def _require_room(self, agent: Agent) -> None:
        count = sum(live.task.mandate.workload == agent.spiffe_id for live in self._open.values())
        if count >= self._max_open:
            raise ConflictError(f"agent `{agent.name}` has {count} open tasks: complete some")

    def _admitting(self, task_id: str) -> LiveTask:
        live = self._open.get(task_id)
        if live is None or live.ending:
            raise MandateError("the task was closed while the call was under way")
        if live.expires_at() <= self._clock():
            raise MandateError("the task has expired")
        return live

    async def _why_not(self, task_id: str) -> str:
        live = self._open.get(task_id)
        if live is not None:
            return "the task is being closed" if live.ending else "the task has expired"
        try:
            state = (await self.get(task_id)).state.value
        except NotFoundError:
            return "there is no such task"
        return f"the task is {state}: open a new one"
