"""An approval: one person's yes to one exact call, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from remit.model.record import Payload, Step


class ApprovalState(StrEnum):
    """Only ``approved`` can be used, and only once."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    USED = "used"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What was asked, bound to the call's digest, its task and the bundle that asked for it.

    ``preview`` is what the approver is shown: the target and every argument, as JSON. It is
    sensitive: the vault keeps it, sealed under the task's key with the record ``asked``, and it is
    empty wherever it was not opened on purpose. ``call_digest`` goes once nobody can use it.
    ``opened_by`` is who opened the task: a person, or the workload itself; ``openers`` are those who
    opened the tasks that it was delegated from.
    """

    id: str
    task: str
    call_digest: str = field(repr=False)
    bundle_digest: str
    role: str
    requester: str
    on_behalf_of: str
    opened_by: str = ""
    openers: tuple[str, ...] = ()
    target: str
    action: str
    sentence: str
    preview: str = field(default="", repr=False)
    asked: str | None = None
    state: ApprovalState = ApprovalState.PENDING
    asked_at: datetime
    expires_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None
    comment: str | None = None

    def record(self) -> Step:
        """Return the approval's present state."""
        return Step(
            kind=f"approval.{'asked' if self.state is ApprovalState.PENDING else self.state.value}",
            body={
                "approval": self.id,
                "role": self.role,
                "requester": self.requester,
                "target": self.target,
                "action": self.action,
                "bundle": self.bundle_digest,
                "expires_at": self.expires_at.isoformat(),
                "decided_by": self.decided_by,
            },
            payloads=(Payload("preview", self.preview.encode()),) if self.preview else (),
        )
