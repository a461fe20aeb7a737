"""The seal over the working tables: what was changed, removed or put back at rest is found.

Agents, approvals, leases, tasks and the catalogue change in place, so no log proves them. Instead:

- every row carries a tag, keyed and over all its values and the log's size when it was written: a
  row that was edited, or made by somebody without the key, is named by it;
- one sealed value holds, for each table, how many rows there are and the sum of a second keyed
  digest of each, and the log's size. It moves in the same transaction as the rows and the records.
  A row that was removed or put back changes the sum, and an older seal speaks of a shorter log.

The sums are the multiset hash MSet-Add-Hash (Clarke and others, 2003), which needs its digests to
stay secret: they are never stored, and the sums only encrypted (AES-SIV, RFC 5297).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from sqlalchemy import Column, Integer, LargeBinary, Table

from remit.model.errors import ProofError
from remit.model.lease import LeaseState
from remit.storage.sqlite import leaves
from remit.storage.sqlite.metadata import METADATA

KEY_BYTES = 32
MAX_ACCEPTED = 200
"""Accepted changes that are named; they have to fit a leaf of the log."""
MAX_KNOWN_ROWS = 20_000
"""Rows whose digest is remembered, so as not to read them again before they are replaced."""
_TAG_BYTES = 16
_SHOWN = 80
_MODULUS = 2**256
_BOUND = [b"remit state seal v1"]

STATE_SEAL = Table(
    "state_seal",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)


def sealed_table(name: str, *columns: Column[Any]) -> Table:
    """Declare a table whose rows are sealed; its first column is its key."""
    return Table(
        name,
        METADATA,
        *columns,
        Column("records", Integer, nullable=False),
        Column("tag", LargeBinary, nullable=False),
        info={"sealed": True},
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A row on its way into a sealed table: inserted, or in the place of the one with its key."""

    table: Table
    values: Mapping[str, object] = field(repr=False)


class Sums(msgspec.Struct):
    """What the seal says: how long the log was, and each table's count and sum.

    ``accepted`` is what the owner stood by, for as long as no record says so.
    """

    records: int = 0
    tables: dict[str, tuple[int, bytes]] = {}
    accepted: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    """One table as it stands: the log's size at which each row was written, and what is wrong."""

    name: str
    written: dict[str, int] = field(default_factory=dict)
    edited: list[str] = field(default_factory=list)
    sum: tuple[int, bytes] = (0, bytes(32))


_EMPTY = (0, bytes(32))


class _Statements:
    """The SQL of one table, written once."""

    def __init__(self, table: Table) -> None:
        names = [column.name for column in table.columns]
        self.name = str(table.name)  # SQLAlchemy's own kind of text is not msgpack's
        self.key = names[0]
        self.columns = names[:-2]
        listed = ", ".join(f'"{name}"' for name in names)
        changed = ", ".join(f'"{name}" = excluded."{name}"' for name in names[1:])
        self.all = f'SELECT {listed} FROM "{table.name}"'  # noqa: S608 - names of our own
        self.one = f'{self.all} WHERE "{self.key}" = ?'
        self.put = (
            f'INSERT INTO "{table.name}" ({listed}) VALUES ({", ".join("?" * len(names))}) '  # noqa: S608 - as above
            f'ON CONFLICT ("{self.key}") DO UPDATE SET {changed}'
        )
        self.tag = f'UPDATE "{table.name}" SET "tag" = ? WHERE "{self.key}" = ?'  # noqa: S608 - as above


class Seals:
    """Seals rows as they are written; all but the key is the writer's thread's."""

    def __init__(self, key: bytes) -> None:
        self._tag_key = _derived(key, b"remit-tag", 32)
        self._sum_key = _derived(key, b"remit-sum", 32)
        self._cipher = AESSIV(_derived(key, b"remit-seal", 64))
        self._statements: dict[str, _Statements] = {}
        self._sums: Sums | None = None
        self._moved: dict[str, tuple[int, int]] = {}
        self._recorded = False
        self._digests: dict[tuple[str, object], int] = {}

    def begin(self, driver: sqlite3.Connection) -> None:
        """Start a group: what the group before moved is in the file, or was lost with it."""
        self._moved = {}
        self._recorded = False
        if self._sums is None:
            self._sums = self.read(driver) or Sums()

    def put(self, driver: sqlite3.Connection, row: Row, records: int) -> None:
        """Write a row, and move its table's sum.

        Args:
            driver: the connection, inside a transaction.
            row: what to write.
            records: how many records the log holds once the transaction is committed.
        """
        said = self._of(row.table)
        values = [row.values[name] for name in said.columns]
        count, total = self._moved.get(said.name) or self._sum(said.name)
        old = self._digest_of(driver, said, values[0])
        tagged = [*values, records, self._tag(said.name, [*values, records])]
        driver.execute(said.put, tagged)
        new = self._digest(said.name, tagged)
        if len(self._digests) > MAX_KNOWN_ROWS:
            self._digests.clear()
        self._digests[said.name, values[0]] = new
        self._moved[said.name] = (count + (old is None), (total - (old or 0) + new) % _MODULUS)

    def _digest_of(self, driver: sqlite3.Connection, said: _Statements, key: object) -> int | None:
        """Return the digest of the row that stands under a key now, or None where there is none."""
        known = self._digests.get((said.name, key))
        if known is not None:
            return known
        row = driver.execute(said.one, (key,)).fetchone()
        return None if row is None else self._digest(said.name, row)

    def close(self, driver: sqlite3.Connection, records: int) -> None:
        """Write the seal over what the group moved, inside its transaction."""
        tables = dict(self._known.tables)
        for name, (count, total) in self._moved.items():
            tables[name] = (count, total.to_bytes(32, "big"))
        self._moved = {}
        self._write(driver, Sums(records, tables, () if self._recorded else self._known.accepted))

    def recorded(self) -> None:
        """Keep what was accepted no longer: its record is in this group, or before it."""
        self._recorded = True

    def forget(self) -> None:
        """Take nothing for granted: a group was lost, or kept though its commit failed."""
        self._sums = None
        self._moved = {}
        self._digests.clear()

    def read(self, driver: sqlite3.Connection) -> Sums | None:
        """Return what the seal in the file says, or None where there is none.

        Raises:
            ProofError: it was not made with this key.
        """
        found = driver.execute("SELECT sealed FROM state_seal WHERE id = 1").fetchone()
        if found is None:
            return None
        try:
            plain = self._cipher.decrypt(found[0], _BOUND)
            return msgspec.msgpack.decode(plain, type=Sums)
        except (InvalidTag, TypeError, ValueError, msgspec.DecodeError) as error:
            raise ProofError("the seal of the state file was not made with `state.key`") from error

    def faults(self, driver: sqlite3.Connection) -> Iterator[str]:
        """Yield, for each sealed table, what stands in the file and is not what was sealed."""
        try:
            sealed = self.read(driver)
        except ProofError as error:
            yield str(error)
            return
        found = [self._scan(driver, table) for table in _tables()]
        records = leaves.next_index(driver)
        if sealed is None:
            if records or any(each.written for each in found):
                yield "the state file has no seal"
            return
        if sealed.records != records:
            yield f"the log holds {records} records, but its state was sealed at {sealed.records}"
        for each in found:
            yield from _faults(driver, each, sealed.tables.get(each.name, _EMPTY))

    def seal_all(self, driver: sqlite3.Connection, accepted: Sequence[str]) -> None:
        """Seal what stands in the file now, and that ``accepted`` is still to be recorded."""
        tables: dict[str, tuple[int, bytes]] = {}
        for table in _tables():
            said = self._of(table)
            for key in self._scan(driver, table).edited:
                row = driver.execute(said.one, (key,)).fetchone()
                driver.execute(said.tag, (self._tag(said.name, row[:-1]), key))
            found = self._scan(driver, table)
            tables[said.name] = found.sum
        kept = tuple(dict.fromkeys(accepted))[:MAX_ACCEPTED]
        self._write(driver, Sums(leaves.next_index(driver), tables, kept))

    def _scan(self, driver: sqlite3.Connection, table: Table) -> _Found:
        said = self._of(table)
        found = _Found(said.name)
        total = 0
        for row in driver.execute(said.all):
            found.written[row[0]] = row[-2]
            total += self._digest(said.name, row)
            if row[-1] != self._tag(said.name, row[:-1]):
                found.edited.append(row[0])
        found.sum = (len(found.written), (total % _MODULUS).to_bytes(32, "big"))
        return found

    @property
    def _known(self) -> Sums:
        if self._sums is None:
            raise RuntimeError("a group was not begun")
        return self._sums

    def _sum(self, name: str) -> tuple[int, int]:
        count, total = self._known.tables.get(name, _EMPTY)
        return count, int.from_bytes(total, "big")

    def _write(self, driver: sqlite3.Connection, sums: Sums) -> None:
        sealed = self._cipher.encrypt(msgspec.msgpack.encode(sums), _BOUND)
        driver.execute("INSERT OR REPLACE INTO state_seal (id, sealed) VALUES (1, ?)", (sealed,))
        self._sums = sums

    def _of(self, table: Table) -> _Statements:
        said = self._statements.get(table.name)
        if said is None:
            said = self._statements[table.name] = _Statements(table)
        return said

    def _tag(self, name: str, values: Sequence[object]) -> bytes:
        return _mac(self._tag_key, name, values, _TAG_BYTES)

    def _digest(self, name: str, values: Sequence[object]) -> int:
        return int.from_bytes(_mac(self._sum_key, name, values, 32), "big")


_RECORDED = {
    "agents": (
        ("agent.registered", "agent.updated", "agent.suspended", "agent.resumed", "agent.retired"),
        "agent",
    ),
    "approvals": (
        tuple(f"approval.{word}" for word in ("asked", "approved", "denied", "used", "expired")),
        "approval",
    ),
    "leases": (tuple(f"lease.{state.value}" for state in LeaseState), "lease"),
    "tasks": (
        ("task.opened", "task.completed", "task.cancelled", "task.expired", "call.succeeded"),
        None,
    ),
}
"""Kinds of records that a row is written beside, and which member of their body is its key; for
a task it is the task that the record belongs to."""


def _faults(driver: sqlite3.Connection, found: _Found, sealed: tuple[int, bytes]) -> Iterator[str]:
    for key in found.edited:
        yield f"row `{_shown(key)}` of `{found.name}` was changed"
    if not found.edited and found.sum != sealed:
        suspects = list(_suspects(driver, found))
        yield from suspects or [f"a row of `{found.name}` was removed or put back"]


def _suspects(driver: sqlite3.Connection, found: _Found) -> Iterator[str]:
    """Yield the rows that the log knows better: gone, or older than the last record of their key.

    A row is written beside its record, so at a log at least as long as that record's index.
    """
    if found.name not in _RECORDED:
        return
    kinds, member = _RECORDED[found.name]
    last: dict[str, int] = {}
    marks = ", ".join("?" * len(kinds))
    query = f"SELECT idx, task, data FROM record WHERE kind IN ({marks}) ORDER BY idx"  # noqa: S608 - marks alone
    for index, task, data in driver.execute(query, kinds):
        last[task if member is None else _member(data, member)] = index
    for key, index in last.items():
        if key not in found.written:
            yield f"row `{_shown(key)}` of `{found.name}` was removed"
        elif found.written[key] < index:
            yield f"row `{_shown(key)}` of `{found.name}` was put back to what it was before"


def _shown(key: object) -> str:
    """Return a row's key as a sentence may hold it: somebody else may have chosen it."""
    text = str(key).encode("unicode_escape").decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _member(data: bytes, member: str) -> str:
    try:
        return str(msgspec.json.decode(data)["body"][member])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "?"  # the log's own check says what is wrong with it


def _tables() -> list[Table]:
    return [table for table in METADATA.sorted_tables if table.info.get("sealed")]


def _derived(key: bytes, use: bytes, size: int) -> bytes:
    return hashlib.blake2b(key=key, person=use, digest_size=size).digest()


def _mac(key: bytes, name: str, values: Sequence[object], size: int) -> bytes:
    data = msgspec.msgpack.encode((name, *values))
    return hashlib.blake2b(data, key=key, digest_size=size).digest()
