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
    """One encrypted payload of a record, and the wrapped key that opens it.

    ``sealed`` is ``nonce || ciphertext``. The key goes with every payload that was sealed under it,
    so that no payload is ever durable without its key; the store keeps each key once, by ``key``,
    under its ``owner``. ``wrapped`` is None where the key was erased.
    """

    name: str
    key: str
    owner: str
    wrapped: bytes | None = field(repr=False)
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
    """Which tasks the log speaks of."""

    async def tasks(self, after: str | None, limit: int) -> Sequence[str]:
        """Return at most ``limit`` task ids above ``after``, in order of their ids."""
        ...


class VaultStore(Protocol):
    """Sealed payloads, and the wrapped keys that open them. An erased key is gone for good."""

    async def payload(self, record: str, name: str) -> SealedPayload | None:
        """Return one sealed payload of a record, by the record's id."""
        ...

    async def wrapped_key(self) -> bytes | None:
        """Return any one of the wrapped keys, or None where there are none."""
        ...

    async def erase(self, owner: str) -> int:
        """Erase every key of ``owner``, from the write-ahead log too; return how many there were.

        Raises:
            EvidenceError: the erasure is not durable, or old bytes may remain.
        """
        ...


class CheckpointKey(Protocol):
    """The log's own key: Ed25519. Its methods may block for some seconds, on a thread."""

    @property
    def public_bytes(self) -> bytes:
        """The public half, 32 bytes (RFC 8032)."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of ``message`` (RFC 8032), 64 bytes.

        Raises:
            UnavailableError: it does not sign now; it may be tried again.
        """
        ...

    def check(self) -> None:
        """See that it would sign.

        Raises:
            UnavailableError: it would not.
        """
        ...


class EvidenceStore(LogWriter, LogReader, TaskIndex, VaultStore, Protocol):
    """All four, as one driver offers them."""
