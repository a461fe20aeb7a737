"""What evidence is made of: steps, records, and the port through which rooms leave them.

A value enters evidence only through its own ``record()``, which returns a :class:`Step`. What is
sensitive (prompts, arguments, results) goes into ``payloads``: evidence seals those in the vault
and keeps only their salted digests in the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""A JSON value; records hold no floats (RFC 8785 numbers are doubles, so amounts are strings)."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Sensitive bytes that belong to a step, kept apart from its record."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened, as its own value describes it."""

    kind: str
    body: Mapping[str, Json]
    payloads: tuple[Payload, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where a step belongs: its task, its call, the records it follows from, its trace."""

    task: str | None = None
    call: str | None = None
    parents: tuple[str, ...] = ()
    trace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One step as evidence keeps it. The leaf of the log is its exact encoded bytes.

    ``payloads`` maps a payload's name to ``{"digest": "sha256:<hex>", "bytes": n}``, where the
    digest is SHA-256 over the payload's 16-byte salt followed by its bytes.
    """

    id: str
    kind: str
    at: datetime
    body: Mapping[str, Json]
    payloads: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    task: str | None = None
    call: str | None = None
    parents: tuple[str, ...] = ()
    trace: str | None = None


class Recordable(Protocol):
    """A value that knows what evidence may keep of it."""

    def record(self) -> Step:
        """Return the step this value stands for."""
        ...


class Recorder(Protocol):
    """The port through which a room leaves evidence.

    State writes and records go through one writer, in order: what a room staged before a barrier
    is durable, all of it, when the barrier returns.
    """

    @property
    def epoch(self) -> int:
        """How many groups of writes were lost so far; moves when a commit fails."""
        ...

    def stage(self, step: Step, context: Context) -> str:
        """Stage a step and return its record id. Durable only after a barrier."""
        ...

    async def barrier(self) -> None:
        """Wait until everything staged so far is durable.

        Raises:
            EvidenceError: it could not be made durable; nothing may act on it.
        """
        ...
