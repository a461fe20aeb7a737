"""A recorder in memory, for tests of the rooms that leave evidence."""

from __future__ import annotations

from remit.model.errors import EvidenceError
from remit.model.record import Context, Step


class MemoryRecorder:
    """A :class:`remit.model.record.Recorder` that keeps what was staged.

    ``records`` holds what was staged, in order. ``durable`` is how many of them a barrier covered.
    With ``fail`` set, a barrier loses what was staged since the last good one, as a full disk
    does: it raises, the epoch moves, and the lost records are taken out of ``records`` into
    ``lost``.
    """

    def __init__(self, *, fail: bool = False) -> None:
        self.records: list[tuple[Step, Context]] = []
        self.lost: list[tuple[Step, Context]] = []
        self.durable = 0
        self.barriers = 0
        self.fail = fail
        self._epoch = 0
        self._count = 0

    @property
    def epoch(self) -> int:
        """How many groups were lost so far."""
        return self._epoch

    @property
    def kinds(self) -> list[str]:
        """The kinds of the records, in order."""
        return [step.kind for step, _ in self.records]

    def stage(self, step: Step, context: Context) -> str:
        """Keep a step and return its record id."""
        self._count += 1
        self.records.append((step, context))
        return f"rec_{self._count:026d}"

    async def barrier(self) -> None:
        """Make what was staged durable.

        Raises:
            EvidenceError: ``fail`` is set.
        """
        self.barriers += 1
        if self.fail:
            self.lost += self.records[self.durable :]
            del self.records[self.durable :]
            self._epoch += 1
            raise EvidenceError("the memory recorder was told to fail")
        self.durable = len(self.records)

    def health(self) -> str | None:
        """Return what is wrong, or None."""
        return "the memory recorder was told to fail" if self.fail else None
