"""The writer's own half of the journal: one connection, one transaction for each group.

Everything here runs on the journal's thread alone.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from remit.evidence.ports import LeafRow
from remit.storage.sqlite import leaves
from remit.storage.sqlite.engine import driver_of, open_writer
from remit.storage.sqlite.seals import Row, Seals

Write = Callable[[Connection], None]
Item = LeafRow | Row | Write
"""What can be staged: a record, a row of a working table, or anything else."""

MAX_KNOWN_KEYS = 100_000
"""Names of durable vault keys that are remembered, so as not to insert a key twice."""

_log = structlog.get_logger()


class GroupWriter:
    """Commits groups of writes and records; a group that fails is lost whole."""

    def __init__(self, path: Path, seals: Seals) -> None:
        self._seals = seals
        self._engine = open_writer(path)
        self._connection: Connection | None = None
        self._next_index: int | None = None
        self._keys: set[str] = set()

    def commit(self, group: Sequence[Item]) -> str | None:
        """Write one group in one transaction; return None, or why all of it was lost."""
        try:
            connection, driver = self._connect()
            rows = [item for item in group if isinstance(item, LeafRow)]
            fresh: set[str] = set()
            with connection.begin():
                if self._next_index is None:
                    self._next_index = leaves.next_index(driver)
                self._seals.begin(driver)
                upto = self._next_index + len(rows)
                for item in group:
                    if isinstance(item, Row):
                        self._seals.put(driver, item, upto)
                    elif not isinstance(item, LeafRow):
                        item(connection)
                if rows:
                    fresh = leaves.insert(driver, self._next_index, rows, self._keys)
                self._seals.close(driver, upto)
        except Exception as error:  # noqa: BLE001 - whatever a write raises, its group is lost
            # A commit that failed may still be found on disk after a crash. Nobody was promised
            # it, and recovery treats what it finds as it treats any record without an outcome.
            _log.error("journal.group_lost", writes=len(group), reason=cause(error))
            self._next_index = None
            self._seals.forget()
            self.drop(truncate=False)
            return f"a group of writes was lost: {cause(error)}"
        self._next_index = upto
        if len(self._keys) > MAX_KNOWN_KEYS:
            self._keys.clear()
        self._keys |= fresh
        return None

    def drop(self, *, truncate: bool) -> None:
        """Close the connection; with ``truncate``, fold the write-ahead log into the file first."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(SQLAlchemyError, sqlite3.Error):
            connection.rollback()
        if truncate:
            with contextlib.suppress(SQLAlchemyError, sqlite3.Error):
                driver_of(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with contextlib.suppress(SQLAlchemyError, sqlite3.Error):
            connection.invalidate()
            connection.close()

    def dispose(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def _connect(self) -> tuple[Connection, sqlite3.Connection]:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection, driver_of(self._connection)


def cause(error: BaseException) -> str:
    """Return what went wrong in one line, without a statement's parameters."""
    origin = getattr(error, "orig", None) or error
    if isinstance(origin, sqlite3.Error | OSError):
        return str(origin).splitlines()[0] if str(origin) else type(origin).__name__
    return type(origin).__name__
