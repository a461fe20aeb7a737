"""A recorder and a store in memory, for tests of the rooms that leave or keep evidence."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from remit.evidence.ports import LeafRow, SealedPayload, StoredLeaf
from remit.model.errors import EvidenceError, NotFoundError
from remit.model.record import Context, Step


class MemoryRecorder:
    """A :class:`remit.model.record.Recorder` that keeps what was staged.

    ``records`` holds what was staged, in order. ``durable`` is how many of them a barrier covered.
    With ``fail`` set, a barrier loses what was staged since the last good one, as a full disk
    does: it raises, the epoch moves, and the lost records are taken out of ``records`` into
    ``lost``. ``erased`` makes every payload one whose key was destroyed.
    """

    def __init__(self, *, fail: bool = False) -> None:
        self.records: list[tuple[Step, Context]] = []
        self.lost: list[tuple[Step, Context]] = []
        self.durable = 0
        self.barriers = 0
        self.fail = fail
        self._epoch = 0
        self._count = 0
        self._by_id: dict[str, Step] = {}
        self.erased = False

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
        self._by_id[f"rec_{self._count:026d}"] = step
        return f"rec_{self._count:026d}"

    async def open_preview(self, record: str) -> bytes | None:
        """Return what was staged as ``preview`` of a record, or None where it was erased.

        Raises:
            NotFoundError: there is no such record, or it was lost.
        """
        step = self._by_id.get(record)
        if step is None or all(step is not kept for kept, _ in self.records):
            raise NotFoundError(f"there is no record `{record}`")
        found = [payload.data for payload in step.payloads if payload.name == "preview"]
        return found[0] if found and not self.erased else None

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


class MemoryEvidence:
    """A :class:`remit.evidence.ports.EvidenceStore` in memory.

    ``fail`` makes barriers lose what was staged since the last good one. ``log`` and ``payloads``
    are what is committed, for a test to tamper with.
    """

    def __init__(self) -> None:
        self.log: list[StoredLeaf] = []
        self.payloads: dict[tuple[str, str], SealedPayload] = {}
        self.keys: dict[str, tuple[str, bytes]] = {}
        self.fail = False
        self._staged: list[LeafRow] = []
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """How many groups of writes were lost so far."""
        return self._epoch

    def stage_leaf(self, leaf: LeafRow) -> None:
        """Stage a record."""
        self._staged.append(leaf)

    async def barrier(self) -> None:
        """Commit what was staged.

        Raises:
            EvidenceError: ``fail`` is set, or a record's id is taken.
        """
        staged, self._staged = self._staged, []
        ids = [leaf.id for leaf in self.log] + [leaf.id for leaf in staged]
        if staged and (self.fail or len(set(ids)) != len(ids)):
            self._epoch += 1
            raise EvidenceError("the memory store lost a group of writes")
        for leaf in staged:
            self.log.append(
                StoredLeaf(
                    len(self.log),
                    leaf.id,
                    leaf.kind,
                    leaf.task,
                    leaf.call,
                    leaf.decision,
                    leaf.data,
                )
            )
            for payload in leaf.payloads:
                self.payloads[leaf.id, payload.name] = payload
                if payload.wrapped is not None:
                    self.keys.setdefault(payload.key, (payload.owner, payload.wrapped))

    def health(self) -> str | None:
        """Return what is wrong, or None."""
        return "the memory store was told to fail" if self.fail else None

    async def leaves(self, start: int, limit: int) -> Sequence[StoredLeaf]:
        """Return at most ``limit`` records from index ``start`` on."""
        await self._flush()
        return [leaf for leaf in self.log if leaf.index >= start][:limit]

    async def of_task(self, task: str) -> Sequence[StoredLeaf]:
        """Return every record of one task, in order."""
        await self._flush()
        return [leaf for leaf in self.log if leaf.task == task]

    async def find(self, id: str) -> Sequence[StoredLeaf]:  # noqa: A002 - the port's word
        """Return the records with this record, call or decision id, in order."""
        await self._flush()
        return [leaf for leaf in self.log if id in {leaf.id, leaf.call, leaf.decision}]

    async def tasks(self, after: str | None, limit: int) -> Sequence[str]:
        """Return at most ``limit`` task ids above ``after``, in order of their ids."""
        await self._flush()
        ids = sorted({leaf.task for leaf in self.log if leaf.task is not None})
        return [task for task in ids if task > (after or "")][:limit]

    async def payload(self, record: str, name: str) -> SealedPayload | None:
        """Return one sealed payload of a record, by the record's id."""
        await self._flush()
        stored = self.payloads.get((record, name))
        if stored is None:
            return None
        owner, wrapped = self.keys.get(stored.key, ("", None))
        return SealedPayload(stored.name, stored.key, owner, wrapped, stored.sealed)

    async def wrapped_key(self) -> bytes | None:
        """Return any one of the wrapped keys, or None where there are none."""
        return next((wrapped for _, wrapped in self.keys.values()), None)

    async def erase(self, owner: str) -> int:
        """Erase every key of ``owner``; return how many there were."""
        await self.barrier()
        mine = [key for key, (whose, _) in self.keys.items() if whose == owner]
        for key in mine:
            del self.keys[key]
        return len(mine)

    async def _flush(self) -> None:
        """Reads see what was staged before them; a lost group is no error to a reader."""
        with contextlib.suppress(EvidenceError):
            await self.barrier()
