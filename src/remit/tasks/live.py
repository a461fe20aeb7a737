"""An open task as the desk keeps it in memory: state, calls in flight, how far its end has come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime

from remit.model.task import Task


@dataclass(slots=True, eq=False)
class LiveTask:
    """An open task: its state, the calls in flight since when, and whether its end has begun.

    ``above`` are the tasks that it was delegated from, the nearest first; ``below`` those that were
    delegated from it and are open. A call below is in flight in every task above, too.
    """

    task: Task
    above: tuple[LiveTask, ...] = ()
    below: list[LiveTask] = field(default_factory=list)
    in_flight: dict[str, datetime] = field(default_factory=dict)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    closing: bool = False
    token: str | None = None
    opened: asyncio.Event | None = None
    """Set once it is known whether the opening became durable; None where it was long ago."""
    end: asyncio.Future[tuple[Task, ...]] | None = None
    """The end that is under way, its own or one above, where ``closing``."""
    staged_end: tuple[int, Task] | None = None
    """The end that was staged and not confirmed, and how many groups had been lost by then."""

    @property
    def chain(self) -> tuple[LiveTask, ...]:
        """This task and every one above it, up to the root."""
        return (self, *self.above)

    def tree(self) -> list[LiveTask]:
        """Return every open task below this one, the deepest first, and this one last."""
        return [*(each for child in self.below for each in child.tree()), self]

    def standing(self) -> Task:
        """Return the task as it stands, with those above it."""
        if not self.above:
            return self.task
        return replace(self.task, above=tuple(each.task for each in self.above))

    def running_seconds(self, now: datetime) -> float:
        """Return what the calls in flight have taken so far, together."""
        return sum(max((now - began).total_seconds(), 0.0) for began in self.in_flight.values())

    def expires_at(self) -> datetime:
        """Return when the task ends: a template in force may end it before its mandate."""
        return min(each.task.ends_at for each in self.chain)

    def is_over(self, now: datetime) -> bool:
        """Say whether it, or a task above it, is ending or has expired."""
        return any(each.ending for each in self.chain) or self.expires_at() <= now
