"""The task desk: opens tasks under signed mandates, measures calls against them, closes them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from remit.model.call import Call
from remit.model.label import Label
from remit.model.mandate import Template
from remit.model.record import Recorder
from remit.model.subject import Agent, Claim, Subject
from remit.model.task import Bounds, Task, TaskState
from remit.tasks.ports import Clock, Signer, TaskStore
from remit.tasks.request import Opened, TaskRequest


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
    ) -> None: ...

    async def load(self) -> None:
        """Take up the open tasks of the store, after a start."""
        raise NotImplementedError

    async def open(self, request: TaskRequest, *, agent: Agent, opened_by: str) -> Opened:
        """Open a task for ``agent``: recorded and durable when this returns."""
        raise NotImplementedError

    async def admit(self, claim: Claim, subject: Subject) -> Task:
        """Return the open task whose token the claim carries."""
        raise NotImplementedError

    def bind_current(self, session_key: str, task_id: str) -> None:
        """Make a task the current one of a plain MCP client's session."""
        raise NotImplementedError

    def current(self, session_key: str) -> str | None:
        """Return the token of the session's current task."""
        raise NotImplementedError

    def measure(self, task: Task, call: Call) -> Bounds:
        """Say how a call stands against mandate, template and budget."""
        raise NotImplementedError

    def spend(self, task_id: str, call: Call) -> None:
        """Take what the call costs and mark it in flight, at once or not at all."""
        raise NotImplementedError

    def require_open(self, task_id: str) -> None:
        """Raise MandateError unless the task still admits calls."""
        raise NotImplementedError

    def settle(self, task_id: str, call: Call, *, seconds: float, label: Label) -> None:
        """End a call's flight: add its seconds, join its label."""
        raise NotImplementedError

    async def close(self, task_id: str, state: TaskState, by: str) -> Task:
        """End a task; nothing new is admitted from the first line on."""
        raise NotImplementedError

    def due(self, now: datetime) -> Sequence[str]:
        """Return the open tasks past their expiry."""
        raise NotImplementedError

    async def get(self, task_id: str) -> Task:
        """Return one task."""
        raise NotImplementedError

    async def list(
        self,
        *,
        state: TaskState | None = None,
        agent: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Sequence[Task]:
        """Return tasks, newest first."""
        raise NotImplementedError

    @property
    def templates(self) -> Mapping[str, Template]:
        """The templates in force, by name."""
        raise NotImplementedError

    def replace_templates(self, templates: Mapping[str, Template]) -> None:
        """Put other templates in force, at once."""
        raise NotImplementedError
