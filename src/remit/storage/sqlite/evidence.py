"""The evidence room's store in SQLite: the log, its index, and the vault's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, or_, select

from remit.evidence.ports import LeafRow, SealedPayload, StoredLeaf
from remit.model.errors import ProofError
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.leaves import PAYLOAD, RECORD, VAULT_KEY

_LEAF = select(
    RECORD.c.idx,
    RECORD.c.id,
    RECORD.c.kind,
    RECORD.c.task,
    RECORD.c.call,
    RECORD.c.decision,
    RECORD.c.data,
).order_by(RECORD.c.idx)


def _leaf(row: Row[*tuple[Any, ...]]) -> StoredLeaf:
    """Return a row of the log; SQLite lets any type into any column."""
    if not isinstance(row.data, bytes):
        raise ProofError(f"record {row.idx} in the database is not bytes")
    return StoredLeaf(*row)


class SqliteEvidence:
    """Implements ``evidence.ports.EvidenceStore``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def epoch(self) -> int:
        """How many groups of writes were lost so far."""
        return self._journal.epoch

    def stage_leaf(self, leaf: LeafRow) -> None:
        """Stage a record, behind everything staged before it."""
        self._journal.stage_leaf(leaf)

    async def barrier(self) -> None:
        """Wait until everything staged so far is durable."""
        await self._journal.barrier()

    def health(self) -> str | None:
        """Return None when writes succeed, else what is wrong."""
        return self._journal.health()

    async def leaves(self, start: int, limit: int) -> Sequence[StoredLeaf]:
        """Return at most ``limit`` records from index ``start`` on."""

        def query(connection: Connection) -> Sequence[StoredLeaf]:
            rows = connection.execute(_LEAF.where(RECORD.c.idx >= start).limit(limit))
            return [_leaf(row) for row in rows]

        return await self._journal.read(query)

    async def of_task(self, task: str) -> Sequence[StoredLeaf]:
        """Return every record of one task, in order."""
        return await self._where(RECORD.c.task == task)

    async def find(self, id: str) -> Sequence[StoredLeaf]:  # noqa: A002 - the port's word
        """Return the records with this record, call or decision id, in order."""
        return await self._where(
            or_(RECORD.c.id == id, RECORD.c.call == id, RECORD.c.decision == id)
        )

    async def tasks(self, after: str | None, limit: int) -> Sequence[str]:
        """Return at most ``limit`` task ids above ``after``, in order of their ids."""
        statement = (
            select(RECORD.c.task)
            .where(RECORD.c.task > (after or ""))
            .distinct()
            .order_by(RECORD.c.task)
            .limit(limit)
        )

        def query(connection: Connection) -> Sequence[str]:
            return list(connection.execute(statement).scalars())

        return await self._journal.read(query)

    async def payload(self, record: str, name: str) -> SealedPayload | None:
        """Return one sealed payload of a record, by the record's id."""
        statement = (
            select(
                PAYLOAD.c.name,
                PAYLOAD.c.key,
                VAULT_KEY.c.owner,
                VAULT_KEY.c.wrapped,
                PAYLOAD.c.sealed,
            )
            .join(RECORD, RECORD.c.idx == PAYLOAD.c.record)
            .join(VAULT_KEY, VAULT_KEY.c.id == PAYLOAD.c.key, isouter=True)
            .where(RECORD.c.id == record, PAYLOAD.c.name == name)
        )

        def query(connection: Connection) -> SealedPayload | None:
            row = connection.execute(statement).one_or_none()
            if row is None:
                return None
            if not isinstance(row.sealed, bytes) or not isinstance(row.wrapped, bytes | None):
                raise ProofError(f"payload `{name}` of record `{record}` was altered")
            return SealedPayload(row.name, row.key, row.owner or "", row.wrapped, row.sealed)

        return await self._journal.read(query)

    async def wrapped_key(self) -> bytes | None:
        """Return any one of the wrapped keys, or None where there are none."""

        def query(connection: Connection) -> bytes | None:
            return connection.execute(select(VAULT_KEY.c.wrapped).limit(1)).scalar_one_or_none()

        return await self._journal.read(query)

    async def erase(self, owner: str) -> int:
        """Erase every key of ``owner``, from the write-ahead log too; return how many."""
        mine = VAULT_KEY.c.owner == owner
        erased: list[int] = []

        def write(connection: Connection) -> None:
            count = connection.execute(select(func.count()).where(mine)).scalar_one()
            connection.execute(delete(VAULT_KEY).where(mine))
            erased.append(count)

        await self._journal.erase(write)
        return erased[-1]

    async def _where(self, condition: ColumnElement[bool]) -> Sequence[StoredLeaf]:
        def query(connection: Connection) -> Sequence[StoredLeaf]:
            return [_leaf(row) for row in connection.execute(_LEAF.where(condition))]

        return await self._journal.read(query)
