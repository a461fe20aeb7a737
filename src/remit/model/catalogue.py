"""What the catalogue knows of a tool: our own classification, and the pinned definition."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from remit.model.label import Label
from remit.model.subject import Environment


class ToolState(StrEnum):
    """Whether a tool's definition is the one somebody accepted."""

    ACCEPTED = "accepted"
    CHANGED = "changed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One catalogued target, ``upstream/name``.

    ``definition_digest`` is the pinned one; ``seen_digest`` what the upstream last claimed.
    ``side_effects`` is the operator's word where given, else raised by the upstream's hints.
    ``label`` is what its results join to the task. ``destinations`` are arguments that say where or
    to whom.
    """

    target: str
    kind: str
    state: ToolState
    definition_digest: str
    seen_digest: str
    environment: Environment
    side_effects: bool = True
    label: Label = field(default_factory=Label)
    destinations: tuple[str, ...] = ()
    first_seen_at: datetime | None = None
