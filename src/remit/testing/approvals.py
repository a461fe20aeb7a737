"""Approvals in memory, for tests of what stands on the approval desk."""

from __future__ import annotations

from collections.abc import Sequence

from remit.model.approval import Approval, ApprovalState


class MemoryApprovals:
    """Implements ``approvals.ports.ApprovalStore`` without a disk."""

    def __init__(self) -> None:
        self._approvals: dict[str, Approval] = {}

    def put(self, approval: Approval) -> None:
        """Keep an approval's present state."""
        self._approvals[approval.id] = approval

    async def get(self, approval_id: str) -> Approval | None:
        """Return one approval."""
        return self._approvals.get(approval_id)

    async def list(
        self, *, state: ApprovalState | None = None, limit: int = 50, after: str | None = None
    ) -> Sequence[Approval]:
        """Return approvals, newest first."""
        found = [
            approval
            for _, approval in sorted(self._approvals.items(), reverse=True)
            if (state is None or approval.state is state) and (after is None or approval.id < after)
        ]
        return found[:limit]
