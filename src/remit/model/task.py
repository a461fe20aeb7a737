"""A task: one unit of work under a mandate."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
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

    ``above`` are the tasks it was delegated from, as they stand, the nearest first; a root has none,
    and where a task has ended they may be left out. ``ended_with`` is the task above whose end ended
    this one.
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
    ended_with: str | None = None
    above: tuple[Task, ...] = ()

    @property
    def id(self) -> str:
        """The task's id, which is its mandate's."""
        return self.mandate.id

    @property
    def chain(self) -> tuple[Task, ...]:
        """This task and every one above it, up to the root: each bounds every call."""
        return (self, *self.above)

    @property
    def ends_at(self) -> datetime:
        """When it ends by itself: the first end in its chain, of a mandate or template in force."""
        return min(
            end
            for each in self.chain
            for end in (
                each.mandate.expires_at,
                each.mandate.issued_at + timedelta(seconds=each.template.expires_seconds),
            )
        )

    @property
    def held(self) -> Label:
        """What the task may know: what it touched, and every task above it, which spoke to it."""
        label = self.label
        for each in self.above:
            label = label.join(each.label)
        return label

    def record(self) -> Step:
        """Return the admission of a call under this task."""
        return Step(
            kind="call.admitted",
            body={
                "mandate": self.mandate_digest,
                "template": self.mandate.template,
                "on_behalf_of": self.mandate.on_behalf_of,
                "calls_spent": self.spent.calls,
                **({"depth": len(self.above)} if self.above else {}),
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How one call stands against mandate, template and budget: measured, not yet decided.

    ``violations`` are sentences, one an argument out of bounds. ``exhausted`` names each part of
    the budget that this call would exceed. ``approval_role`` is the role the mandate or template
    asks approval from. For a delegated task all of it is said of the whole chain: the least of what
    each mandate and template in it allows.
    """

    in_template: bool
    in_mandate: bool
    violations: tuple[str, ...] = ()
    exhausted: tuple[str, ...] = ()
    approval_role: str | None = None
    calls_left: int | None = None
