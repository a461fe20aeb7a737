"""What the approvals room asks of others: a place where approvals outlive the process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from remit.model.approval import Approval, ApprovalState

Clock = Callable[[], datetime]
"""Returns the present time, aware UTC."""


class ApprovalStore(Protocol):
    """Where approvals outlive the process."""

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
