"""Tasks in SQLite: the signed mandate as it is, and beside it what changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import msgspec
from sqlalchemy import Column, Connection, LargeBinary, String, select

from remit.model.label import Confidentiality, Label
from remit.model.mandate import Spent, Template
from remit.model.task import Task, TaskState
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.seals import sealed_table
from remit.tasks.mandates import claims_of, digest_of, from_claims

TASKS = sealed_table(
    "tasks",
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False, index=True),
    Column("agent", String, nullable=False, index=True),
    Column("parent", String, index=True),
    Column("document", LargeBinary, nullable=False),
)


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    signed_mandate: str
    state: TaskState
    calls: int
    seconds: float
    amounts: dict[str, Decimal]
    confidentiality: int
    trusted: bool
    categories: tuple[str, ...]
    closed_at: datetime | None
    closed_by: str | None
    key: str | None = None
    ended_with: str | None = None


class SqliteTasks:
    """Implements ``tasks.ports.TaskStore``. A task's template is the desk's to put in force."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def put(self, task: Task) -> None:
        """Stage a task's present state."""
        row = {
            "id": task.id,
            "state": task.state.value,
            "agent": task.mandate.agent,
            "parent": None if task.mandate.parent is None else task.mandate.parent.task,
            "document": msgspec.json.encode(_written(task)),
        }
        self._journal.stage_row(TASKS, row)

    async def get(self, task_id: str) -> Task | None:
        """Return one task."""

        def query(connection: Connection) -> bytes | None:
            return connection.execute(
                select(TASKS.c.document).where(TASKS.c.id == task_id)
            ).scalar()

        document = await self._journal.read(query)
        return None if document is None else _read(document)

    async def list(
        self,
        *,
        state: TaskState | None = None,
        agent: str | None = None,
        parent: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Sequence[Task]:
        """Return tasks, newest first."""
        statement = select(TASKS.c.document).order_by(TASKS.c.id.desc()).limit(limit)
        if state is not None:
            statement = statement.where(TASKS.c.state == state.value)
        if agent is not None:
            statement = statement.where(TASKS.c.agent == agent)
        if parent is not None:
            statement = statement.where(TASKS.c.parent == parent)
        if after is not None:
            statement = statement.where(TASKS.c.id < after)

        def query(connection: Connection) -> Sequence[bytes]:
            return connection.execute(statement).scalars().all()

        return [_read(document) for document in await self._journal.read(query)]


def _written(task: Task) -> _Document:
    return _Document(
        signed_mandate=task.signed_mandate,
        state=task.state,
        calls=task.spent.calls,
        seconds=task.spent.seconds,
        amounts=dict(task.spent.amounts),
        confidentiality=int(task.label.confidentiality),
        trusted=task.label.trusted,
        categories=tuple(sorted(task.label.categories)),
        closed_at=task.closed_at,
        closed_by=task.closed_by,
        key=task.key,
        ended_with=task.ended_with,
    )


def _read(data: bytes) -> Task:
    document = msgspec.json.decode(data, type=_Document)
    mandate = from_claims(claims_of(document.signed_mandate))
    return Task(
        mandate=mandate,
        template=Template(
            name=mandate.template,
            purpose=mandate.purpose,
            capabilities=(),
            environments=(),
            digest=mandate.template_digest,
        ),
        signed_mandate=document.signed_mandate,
        mandate_digest=digest_of(document.signed_mandate),
        state=document.state,
        spent=Spent(calls=document.calls, seconds=document.seconds, amounts=document.amounts),
        label=Label(
            Confidentiality(document.confidentiality),
            document.trusted,
            frozenset(document.categories),
        ),
        closed_at=document.closed_at,
        closed_by=document.closed_by,
        key=document.key,
        ended_with=document.ended_with,
    )
