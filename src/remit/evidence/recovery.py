"""What a crash cut off: every call that has no outcome gets the one that can be said honestly.

- A call whose permit is on record may have acted: ``call.unknown``.
- A call that was refused on record did not act: ``call.denied``.
- A call that was never decided did not act: ``call.failed``.

A task that ended and was not sealed is known as well; who settles its leases seals it then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from remit.evidence.log import Head
from remit.model.decision import Effect
from remit.model.errors import EvidenceError, RemitError
from remit.model.record import Context, Record, Step

OUTCOMES = frozenset(
    {
        "call.succeeded",
        "call.failed",
        "call.denied",
        "call.unknown",
        "call.unidentified",
        "call.unadmitted",
    }
)
STEPS = frozenset({"call.identified", "call.admitted", "call.decided"})
ENDS = frozenset({"task.completed", "task.cancelled", "task.expired"})
SEALED = "task.sealed"
MAX_OWED = 10_000
"""Calls whose outcome is said again once it can be; a start finds those beyond."""

Find = Callable[[str], Awaitable[Sequence[tuple[int, Record]]]]

_log = structlog.get_logger()


@dataclass(slots=True)
class _Open:
    """A call so far: the task it runs under, what was decided, and its last record."""

    task: str | None
    effect: str | None
    last: str


class OpenCalls:
    """Watches the log go by, record by record, and knows which calls have no outcome."""

    def __init__(self) -> None:
        self._calls: dict[str, _Open] = {}

    def see(self, head: Head) -> None:
        """Take the next record of the log."""
        if head.call is None:
            return
        if head.kind in OUTCOMES:
            self._calls.pop(head.call, None)
        elif head.kind in STEPS:
            call = self._calls.setdefault(head.call, _Open(head.task, None, head.id))
            call.task, call.last = head.task or call.task, head.id
            call.effect = head.effect or call.effect

    def steps(self) -> Iterator[tuple[Step, Context]]:
        """Yield the outcome that each open call gets."""
        for call_id, call in self._calls.items():
            yield _outcome(call.effect), Context(task=call.task, call=call_id, parents=(call.last,))


class Unsealed:
    """Watches the log go by, and knows which tasks ended and have no seal, in order."""

    def __init__(self) -> None:
        self._tasks: dict[str, None] = {}

    def see(self, head: Head) -> None:
        """Take the next record of the log."""
        if head.task is None:
            return
        if head.kind in ENDS:
            self._tasks[head.task] = None
        elif head.kind == SEALED:
            self._tasks.pop(head.task, None)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(self._tasks)


class Owed:
    """Calls whose outcome may be lost with a group of writes, and how to say it once more."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._calls: dict[str, Callable[[], None]] = {}
        self._turn = asyncio.Lock()

    def add(self, call_id: str, leave: Callable[[], None]) -> None:
        """Remember a call that was told that its outcome is not durable."""
        if len(self._calls) < MAX_OWED:
            self._calls.setdefault(call_id, leave)

    async def pay(self) -> None:
        """Leave the outcome of each call that is in the log without one.

        A call is forgotten once its outcome was found, or nothing at all of it.
        """
        async with self._turn:  # two at once would both find none, and leave two
            for call_id, leave in list(self._calls.items()):
                try:
                    kinds = {record.kind for _, record in await self._find(call_id)}
                    if kinds and kinds.isdisjoint(OUTCOMES):
                        leave()
                    else:
                        self._calls.pop(call_id, None)
                except EvidenceError:
                    return  # still down: later
                except RemitError as error:
                    self._calls.pop(call_id, None)
                    _log.error("an outcome cannot be said again", call=call_id, reason=str(error))


def _outcome(effect: str | None) -> Step:
    if effect is None:
        kind, said = "call.failed", "the authority stopped before this was decided"
    elif effect == Effect.PERMIT.value:
        kind, said = (
            "call.unknown",
            "the authority stopped after permitting this: it may have acted",
        )
    else:
        kind, said = "call.denied", "the authority stopped after refusing this"
    return Step(kind=kind, body={"code": "recovered", "reason": said})
