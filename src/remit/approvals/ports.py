"""What the approvals room asks of others: a place where approvals outlive the process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

from remit.model.approval import Approval, ApprovalState

Clock = Callable[[], datetime]
"""Returns the present time, aware UTC."""

OpenPreview = Callable[[str], Awaitable[bytes | None]]
"""Opens the preview that was sealed with this record; None where its key was erased.

Raises NotFoundError where there is no such record."""


class ApprovalStore(Protocol):
    """Where approvals outlive the process, without what they would do: the vault keeps that."""

    def put(self, approval: Approval) -> None:
        """Stage an approval's present state; durable at the next barrier."""
        ...

    async def get(self, approval_id: str) -> Approval | None:
        """Return one approval."""
        ...

    async def list(
        self, *, state: ApprovalState | None = None, limit: int = 50, after: str | None = None
    ) -> Sequence[Approval]:
        """Return approvals, newest first; ``after`` is the last id of the page before."""
        ...
