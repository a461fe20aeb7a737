"""An open task as the desk keeps it in memory: state, calls in flight, how far its end has come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from remit.model.task import Task


@dataclass(slots=True)
class LiveTask:
    """An open task: its state, the calls in flight since when, and whether its end has begun."""

    task: Task
    in_flight: dict[str, datetime] = field(default_factory=dict)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    closing: bool = False
    token: str | None = None
    staged_end: tuple[int, Task] | None = None
    """The end that was staged and not confirmed, and how many groups had been lost by then."""

    def running_seconds(self, now: datetime) -> float:
        """Return what the calls in flight have taken so far, together."""
        return sum(max((now - began).total_seconds(), 0.0) for began in self.in_flight.values())

    def expires_at(self) -> datetime:
        """Return when the task ends: the template in force may end it before its mandate."""
        mandate, template = self.task.mandate, self.task.template
        bound = mandate.issued_at + timedelta(seconds=template.expires_seconds)
        return min(mandate.expires_at, bound)
