"""Approvals in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Column, Connection, LargeBinary, String, select

from remit.model.approval import Approval, ApprovalState
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.seals import sealed_table

APPROVALS = sealed_table(
    "approvals",
    Column("id", String, primary_key=True),
    Column("task", String, nullable=False, index=True),
    Column("state", String, nullable=False, index=True),
    Column("document", LargeBinary, nullable=False),
)


class SqliteApprovals:
    """Implements ``approvals.ports.ApprovalStore``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def put(self, approval: Approval) -> None:
        """Stage an approval's present state."""
        row = {
            "id": approval.id,
            "task": approval.task,
            "state": approval.state.value,
            "document": msgspec.json.encode(approval),
        }
        self._journal.stage_row(APPROVALS, row)

    async def get(self, approval_id: str) -> Approval | None:
        """Return one approval."""

        def query(connection: Connection) -> bytes | None:
            return connection.execute(
                select(APPROVALS.c.document).where(APPROVALS.c.id == approval_id)
            ).scalar()

        document = await self._journal.read(query)
        return None if document is None else msgspec.json.decode(document, type=Approval)

    async def list(
        self, *, state: ApprovalState | None = None, limit: int = 50, after: str | None = None
    ) -> Sequence[Approval]:
        """Return approvals, newest first."""
        statement = select(APPROVALS.c.document).order_by(APPROVALS.c.id.desc()).limit(limit)
        if state is not None:
            statement = statement.where(APPROVALS.c.state == state.value)
        if after is not None:
            statement = statement.where(APPROVALS.c.id < after)

        def query(connection: Connection) -> Sequence[bytes]:
            return connection.execute(statement).scalars().all()

        return [
            msgspec.json.decode(document, type=Approval)
            for document in await self._journal.read(query)
        ]
