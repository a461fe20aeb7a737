"""The approval desk: one person's yes to one exact call, once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from remit.approvals.ports import ApprovalStore, Clock
from remit.model.approval import Approval, ApprovalState
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.record import Recorder
from remit.model.subject import Person, Subject
from remit.model.task import Task


class ApprovalDesk:
    """Asks, grants, denies, uses up and expires approvals."""

    def __init__(
        self,
        *,
        store: ApprovalStore,
        recorder: Recorder,
        clock: Clock,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        expires_seconds: int = 900,
        self_approval: bool = False,
        max_pending_per_task: int = 20,
    ) -> None: ...

    async def load(self) -> None:
        """Take up the pending and approved ones of the store, after a start."""
        raise NotImplementedError

    async def ask(
        self, *, decision: Decision, call: Call, task: Task, subject: Subject
    ) -> Approval:
        """Ask for a yes to this exact call; while one is pending, return that one."""
        raise NotImplementedError

    def granted(self, *, task_id: str, call: Call, bundle_digest: str) -> Approval | None:
        """Return a usable yes to this exact call, if there is one."""
        raise NotImplementedError

    def consume(self, approval_id: str) -> Approval:
        """Use an approval up; only one caller ever succeeds."""
        raise NotImplementedError

    async def approve(self, approval_id: str, person: Person, comment: str = "") -> Approval:
        """Say yes."""
        raise NotImplementedError

    async def deny(self, approval_id: str, person: Person, comment: str = "") -> Approval:
        """Say no."""
        raise NotImplementedError

    def expire_due(self) -> Sequence[Approval]:
        """Expire what is past its time; staged, durable at the next barrier."""
        raise NotImplementedError

    async def get(self, approval_id: str) -> Approval:
        """Return one approval."""
        raise NotImplementedError

    async def list(
        self, *, state: ApprovalState | None = None, limit: int = 50, after: str | None = None
    ) -> Sequence[Approval]:
        """Return approvals, newest first."""
        raise NotImplementedError
