"""One call's records in a row: each follows from the one before it."""

from __future__ import annotations

from typing import TypeVar

from remit.model.errors import EvidenceError
from remit.model.record import Context, Recordable, Recorder

R = TypeVar("R", bound=Recordable)


class Trail:
    """What one call leaves behind, in order.

    A trail remembers how many groups of writes were lost when it began. If that number moved, some
    of its own records may be among the lost ones, and its barrier refuses.
    """

    def __init__(self, recorder: Recorder, *, call: str, trace: str | None = None) -> None:
        self._recorder = recorder
        self._call = call
        self._trace = trace
        self._task: str | None = None
        self._last: str | None = None
        self._epoch = recorder.epoch

    def bind(self, task_id: str) -> None:
        """Name the task that every later record belongs to."""
        self._task = task_id

    @property
    def last(self) -> str | None:
        """The id of the record left last, for another trail to follow from."""
        return self._last

    def leave(self, value: R) -> R:
        """Stage ``value.record()`` as the successor of the record before it; return ``value``.

        Raises:
            EvidenceError: nothing can be staged.
            InputError: the record is larger than a leaf of the log may be.
        """
        self._last = self._recorder.stage(
            value.record(),
            Context(
                task=self._task,
                call=self._call,
                parents=self._parents(),
                trace=self._trace,
            ),
        )
        return value

    def _parents(self) -> tuple[str, ...]:
        """Return what the next record follows from: nothing, where that may be lost."""
        if self._last is None or self._recorder.epoch != self._epoch:
            return ()
        return (self._last,)

    async def barrier(self) -> None:
        """Wait until all that was left is durable.

        Raises:
            EvidenceError: it could not be made durable, or writes were lost since the trail began.
        """
        await self._recorder.barrier()
        if self._recorder.epoch != self._epoch:
            raise EvidenceError("writes were lost since this call began: start it again")
