"""What evidence asks of storage: one ordered writer, a log to read, and keys that can be erased.

The rows here are what crosses the border. A driver keeps them as they are: the bytes of a leaf are
the hashed bytes, and a sealed payload is opaque to whoever stores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SealedPayload:
    """One encrypted payload of a record: ``nonce || ciphertext`` under the key named ``key``."""

    name: str
    key: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LeafRow:
    """One record on its way into the log.

    ``data`` is the record's exact encoded bytes, at most 65,535 of them (tlog-tiles, "Log
    entries"). The other fields repeat what ``data`` says, so that it can be found. The log gives
    the index when it commits.
    """

    id: str
    kind: str
    task: str | None
    call: str | None
    decision: str | None
    data: bytes = field(repr=False)
    payloads: tuple[SealedPayload, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredLeaf:
    """One record as the log holds it, with its index and the columns it is found by."""

    index: int
    id: str
    kind: str
    task: str | None
    call: str | None
    decision: str | None
    data: bytes = field(repr=False)


class LogWriter(Protocol):
    """The one writer, in order: what was staged before a barrier is durable when it returns."""

    @property
    def epoch(self) -> int:
        """How many groups of writes were lost so far."""
        ...

    def stage_leaf(self, leaf: LeafRow) -> None:
        """Stage a record, behind everything staged before it.

        Raises:
            EvidenceError: the queue is full, or nothing can be written any more.
        """
        ...

    async def barrier(self) -> None:
        """Wait until everything staged so far is durable.

        Raises:
            EvidenceError: it could not be made durable.
        """
        ...

    def health(self) -> str | None:
        """Return None when writes succeed, else one sentence that says what is wrong."""
        ...


class LogReader(Protocol):
    """The committed log, in order. Every read sees what was staged before it."""

    async def leaves(self, start: int, limit: int) -> Sequence[StoredLeaf]:
        """Return at most ``limit`` records from index ``start`` on."""
        ...

    async def of_task(self, task: str) -> Sequence[StoredLeaf]:
        """Return every record of one task, in order."""
        ...

    async def find(self, id: str) -> Sequence[StoredLeaf]:  # noqa: A002 - it is the id
        """Return the records with this record, call or decision id, in order."""
        ...


class TaskIndex(Protocol):
    """Which tasks the log speaks of, and which calls it left without an outcome."""

    async def tasks(self, after: str | None, limit: int) -> Sequence[str]:
        """Return at most ``limit`` task ids above ``after``, in order of their ids."""
        ...

    async def unfinished(self, start: int) -> Sequence[StoredLeaf]:
        """Return the records, from index ``start`` on, of calls that have no outcome record."""
        ...


class VaultStore(Protocol):
    """Sealed payloads, and the wrapped keys that open them. An erased key is gone for good."""

    async def payload(self, record: str, name: str) -> SealedPayload | None:
        """Return one sealed payload of a record, by the record's id."""
        ...

    async def keys(self) -> Sequence[tuple[str, bytes]]:
        """Return every key, by name, as it was stored: wrapped."""
        ...

    def put_key(self, name: str, wrapped: bytes) -> None:
        """Stage a key. A name is given once: a second key under it is an error."""
        ...

    async def erase_key(self, name: str) -> bool:
        """Erase a key from the store and its write-ahead log; False when there was none."""
        ...
