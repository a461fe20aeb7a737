"""A task: one unit of work under a mandate."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from remit.model.label import Label
from remit.model.mandate import Mandate, Spent, Template
from remit.model.record import Step

OWN_KEY = "own"
"""What a task is bound to whose agent's identity is bound itself: that identity's own key."""


class TaskState(StrEnum):
    """Open is the only state in which a task admits a call."""

    OPEN = "open"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it stands.

    ``signed_mandate`` is the mandate's compact JWS; ``mandate_digest`` is the SHA-256 of those
    bytes (``sha256:<hex>``). ``template`` is the upper bound in force now. ``key`` is the thumbprint
    (RFC 7638) of the key that the agent has to hold, or ``OWN_KEY``; None where the task is bound to
    its workload only.
    """

    mandate: Mandate
    template: Template
    signed_mandate: str = field(repr=False)
    mandate_digest: str
    state: TaskState = TaskState.OPEN
    spent: Spent = field(default_factory=Spent)
    label: Label = field(default_factory=Label)
    closed_at: datetime | None = None
    closed_by: str | None = None
    key: str | None = None

    @property
    def id(self) -> str:
        """The task's id, which is its mandate's."""
        return self.mandate.id

    def record(self) -> Step:
        """Return the admission of a call under this task."""
        return Step(
            kind="call.admitted",
            body={
                "mandate": self.mandate_digest,
                "template": self.mandate.template,
                "on_behalf_of": self.mandate.on_behalf_of,
                "calls_spent": self.spent.calls,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How one call stands against mandate, template and budget: measured, not yet decided.

    ``violations`` are sentences, one an argument out of bounds. ``exhausted`` names each part of
    the budget that this call would exceed. ``approval_role`` is the role the mandate or template
    asks approval from.
    """

    in_template: bool
    in_mandate: bool
    violations: tuple[str, ...] = ()
    exhausted: tuple[str, ...] = ()
    approval_role: str | None = None
    calls_left: int | None = None
