"""The lease book's pages in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Float, LargeBinary, String, select
from sqlalchemy.exc import SQLAlchemyError

from remit.model.errors import ConfigError
from remit.model.lease import Lease, LeaseState
from remit.storage.sqlite.engine import open_reader
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.seals import sealed_table

LEASES = sealed_table(
    "leases",
    Column("id", String, primary_key=True),
    Column("task", String, nullable=False, index=True),
    Column("state", String, nullable=False, index=True),
    Column("expires_at", Float, nullable=False, index=True),
    Column("document", LargeBinary, nullable=False),
)


_OVER = (LeaseState.SETTLED.value, LeaseState.FAILED.value)


def left_open(path: Path) -> Sequence[Lease]:
    """Return the leases that are not over in a file that nobody has open; change nothing.

    Raises:
        ConfigError: the file cannot be read.
    """
    engine = open_reader(path)
    try:
        with engine.connect() as connection:
            found = select(LEASES.c.document).where(LEASES.c.state.not_in(_OVER))
            return [
                msgspec.json.decode(document, type=Lease)
                for document in connection.execute(found.order_by(LEASES.c.id)).scalars()
            ]
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise ConfigError(f"`{path}` cannot be read") from error
    finally:
        engine.dispose()


class SqliteLeases:
    """Implements ``credentials.port.LeaseStore``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def put(self, lease: Lease) -> None:
        """Stage a lease's present state."""
        row = {
            "id": lease.id,
            "task": lease.task,
            "state": lease.state.value,
            "expires_at": lease.expires_at.timestamp(),
            "document": msgspec.json.encode(lease),
        }
        self._journal.stage_row(LEASES, row)

    async def get(self, lease_id: str) -> Lease | None:
        """Return one lease."""

        def query(connection: Connection) -> bytes | None:
            return connection.execute(
                select(LEASES.c.document).where(LEASES.c.id == lease_id)
            ).scalar()

        document = await self._journal.read(query)
        return None if document is None else msgspec.json.decode(document, type=Lease)

    async def unsettled(self) -> Sequence[Lease]:
        """Return every lease that may still have a live credential, oldest first."""
        return await self._where(LEASES.c.state.not_in(_OVER))

    async def unexpired(self, now: datetime) -> Sequence[Lease]:
        """Return every lease, settled ones too, whose credential could be alive by its expiry."""
        return await self._where(LEASES.c.expires_at > now.timestamp())

    async def _where(self, which: ColumnElement[bool]) -> list[Lease]:
        def query(connection: Connection) -> list[bytes]:
            return list(
                connection.execute(
                    select(LEASES.c.document).where(which).order_by(LEASES.c.id)
                ).scalars()
            )

        return [
            msgspec.json.decode(document, type=Lease)
            for document in await self._journal.read(query)
        ]
