"""The log's own tables, and the one insert that the writer makes for a whole group.

The index of a record is its row id: the writer gives it inside the transaction, so that a group
that is lost leaves no gap.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable, Sequence

from sqlalchemy import Column, Index, Integer, LargeBinary, Table, Text

from remit.evidence.ports import LeafRow
from remit.storage.sqlite.metadata import METADATA

RECORD = Table(
    "record",
    METADATA,
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("task", Text),
    Column("call", Text),
    Column("decision", Text),
    Column("data", LargeBinary, nullable=False),
    Index("record_id", "id", unique=True),
    Index("record_task", "task"),
    Index("record_call", "call"),
    Index("record_decision", "decision", sqlite_where=Column("decision").is_not(None)),
)

PAYLOAD = Table(
    "payload",
    METADATA,
    Column("record", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("payload_record", "record", "name", unique=True),
)

VAULT_KEY = Table(
    "vault_key",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Index("vault_key_owner", "owner"),
)

_INSERT_RECORD = "INSERT INTO record (idx, id, kind, task, call, decision, data) VALUES "
_INSERT_PAYLOAD = "INSERT INTO payload (record, name, key, sealed) VALUES "
_INSERT_KEY = "INSERT OR IGNORE INTO vault_key (id, owner, wrapped) VALUES "
_RECORD_COLUMNS, _PAYLOAD_COLUMNS, _KEY_COLUMNS = 7, 4, 3
_CHUNKS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Rows a statement: each is one step outside the interpreter lock, and few shapes stay prepared."""


def next_index(driver: sqlite3.Connection) -> int:
    """Return the index that the next record gets."""
    row = driver.execute("SELECT max(idx) FROM record").fetchone()
    return 0 if row[0] is None else int(row[0]) + 1


def insert(
    driver: sqlite3.Connection, first: int, leaves: Sequence[LeafRow], known: Container[str]
) -> set[str]:
    """Insert ``leaves`` at ``first`` and the indices after it, with their payloads and keys.

    Args:
        driver: the connection, inside a transaction.
        first: the index of the first of them.
        leaves: the records.
        known: names of keys that are durable already.

    Returns:
        The names of the keys that were inserted.
    """
    records: list[object] = []
    payloads: list[object] = []
    keys: dict[str, tuple[str, str, bytes]] = {}
    for index, leaf in enumerate(leaves, first):
        records += (index, leaf.id, leaf.kind, leaf.task, leaf.call, leaf.decision, leaf.data)
        for payload in leaf.payloads:
            payloads += (index, payload.name, payload.key, payload.sealed)
            if payload.wrapped is not None and payload.key not in known:
                keys[payload.key] = (payload.key, payload.owner, payload.wrapped)
    named: list[object] = [value for key in keys.values() for value in key]
    for head, columns, values in (
        (_INSERT_RECORD, _RECORD_COLUMNS, records),
        (_INSERT_PAYLOAD, _PAYLOAD_COLUMNS, payloads),
        (_INSERT_KEY, _KEY_COLUMNS, named),
    ):
        for sql, chunk in _statements(head, columns, values):
            driver.execute(sql, chunk)
    return set(keys)


def _statements(
    head: str, columns: int, values: list[object]
) -> Iterable[tuple[str, Sequence[object]]]:
    """Yield statements of a few fixed sizes that insert ``values``, in order."""
    place = 0
    one = f"({','.join('?' * columns)})"
    while place < len(values):
        left = (len(values) - place) // columns
        rows = next(size for size in _CHUNKS if size <= left)
        end = place + rows * columns
        yield head + ",".join([one] * rows), values[place:end]
        place = end
