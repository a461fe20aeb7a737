"""One ordered writer over one SQLite file: state and records, committed in groups.

The rules it keeps:

- Writes run in the order in which they were staged, on one thread, and a group is one transaction
  with one fsync (WAL, ``synchronous=FULL``).
- A barrier returns only when everything staged before it is on disk. It raises when its own group
  was lost, and also when any group was lost since the same asyncio task first staged something.
- A lost group is lost whole: every write in it, every barrier waiting for it, and ``epoch`` moves.
  A write that raises costs its group, so encode what you stage before you stage it.
- The queue is bounded. When it is full, staging raises instead of growing.
- One process at a time: a lock file, held with flock for as long as the journal is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from remit.evidence.ports import LeafRow
from remit.model.errors import EvidenceError
from remit.storage.sqlite import leaves
from remit.storage.sqlite.engine import driver_of, open_reader, open_writer, prepare_files
from remit.storage.sqlite.lock import StateLock
from remit.storage.sqlite.migrations import migrate

T = TypeVar("T")
Write = Callable[[Connection], None]
Clock = Callable[[], datetime]

MAX_QUEUED = 65_536
"""Writes that may wait; about 100 MB at the usual size of a record with its payloads."""
LINGER_SECONDS = 0.1
"""How long a write that nobody waits for may stay in memory."""
MAX_KNOWN_KEYS = 100_000
"""Names of durable vault keys that are remembered, so as not to insert a key twice."""

_log = structlog.get_logger()


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Waiter:
    """One barrier: the last write it waits for, and where to say so."""

    target: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    strict: bool


class Journal:
    """The embedded driver's writer. Make one with :meth:`open`, end it with :meth:`close`."""

    def __init__(self, path: Path, lock: StateLock, *, max_queued: int = MAX_QUEUED) -> None:
        self.path = path
        self._lock_file = lock
        self._max_queued = max_queued
        self._mutex = threading.Lock()
        self._wake = threading.Condition(self._mutex)
        self._queue: list[Write | LeafRow] = []
        self._waiters: deque[_Waiter] = deque()
        self._staged = 0
        self._settled = 0
        self._epoch = 0
        self._trouble: str | None = None
        self._closing = False
        self._stopped = False
        self._began: weakref.WeakKeyDictionary[asyncio.Task[object], int] = (
            weakref.WeakKeyDictionary()
        )
        self._writer: Engine = open_writer(path)
        self._connection: Connection | None = None
        self._next_index: int | None = None
        self._keys: set[str] = set()
        self._reader: Engine = open_reader(path)
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="remit-read")
        self._thread = threading.Thread(target=self._run, name="remit-journal", daemon=True)

    @classmethod
    def open(cls, path: Path, *, clock: Clock = _now, max_queued: int = MAX_QUEUED) -> Journal:
        """Open the state file at ``path``, creating it (0600) and its folder (0700) if need be.

        Args:
            path: the SQLite file; the lock file is beside it, with ``.lock`` added.
            clock: tells the time that the lock file shows to whoever comes second.
            max_queued: how many writes may wait before staging raises.

        Raises:
            ConfigError: another process holds it (and which), or it cannot be created or migrated.
        """
        prepare_files(path)
        lock = StateLock.take(path.with_name(path.name + ".lock"), at=clock())
        try:
            migrate(path)
            journal = cls(path, lock, max_queued=max_queued)
        except BaseException:
            lock.release()
            raise
        journal._thread.start()
        return journal

    @property
    def epoch(self) -> int:
        """How many groups were lost so far."""
        return self._epoch

    def stage(self, write: Write) -> None:
        """Stage a write; it runs on the writer's thread, in its turn, inside the group.

        Raises:
            EvidenceError: the queue is full, or the journal is closed; nothing was staged.
        """
        self._append(write)

    def stage_leaf(self, leaf: LeafRow) -> None:
        """Stage a record in the same order; its index is given inside the transaction.

        Raises:
            EvidenceError: the queue is full, or the journal is closed; nothing was staged.
        """
        self._append(leaf)

    def _append(self, item: Write | LeafRow) -> None:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        with self._mutex:
            if self._closing or self._stopped:
                raise EvidenceError("the journal is closed: nothing can be written")
            if len(self._queue) >= self._max_queued:
                raise EvidenceError(
                    f"`{self._max_queued}` writes wait for the disk already: try again later"
                )
            self._queue.append(item)
            self._staged += 1
            if task is not None and task not in self._began:
                self._began[task] = self._epoch
            if len(self._queue) * 2 == self._max_queued:
                self._wake.notify()

    async def barrier(self) -> None:
        """Wait until everything staged so far is durable.

        Raises:
            EvidenceError: it was lost, or a group was lost since this asyncio task first staged
                something after its last barrier.
        """
        task = asyncio.current_task()
        began = None if task is None else self._began.get(task)
        try:
            await self._settle(strict=True)
        except EvidenceError:
            self._forget(task)  # it has been told
            raise
        self._forget(task)
        if began is not None and began != self._epoch:
            raise EvidenceError("writes were lost since this began: start again")

    def _forget(self, task: asyncio.Task[object] | None) -> None:
        """Drop what was remembered for the barrier of ``task``: it got its answer."""
        if task is not None:
            self._began.pop(task, None)

    async def _settle(self, *, strict: bool) -> None:
        """Wait for all staged so far; with ``strict``, raise where its last group was lost."""
        with self._mutex:
            if self._stopped and self._settled < self._staged:
                raise EvidenceError("the journal is closed: nothing can be written")
            if self._settled >= self._staged:
                if strict and self._trouble is not None:
                    raise EvidenceError(self._trouble)
                return
            loop = asyncio.get_running_loop()
            waiter = _Waiter(self._staged, loop, loop.create_future(), strict)
            self._waiters.append(waiter)
            self._wake.notify()
        await waiter.future

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run ``query`` on the read connection's own thread; it sees what was staged before it.

        Writes that were lost are not seen, and are not an error here.

        Raises:
            EvidenceError: the file cannot be read.
        """
        await self._settle(strict=False)

        def run() -> T:
            try:
                with self._reader.connect() as connection:
                    return query(connection)
            except SQLAlchemyError as error:
                raise EvidenceError(f"the state file cannot be read: {_cause(error)}") from error

        try:
            future = self._readers.submit(run)
        except RuntimeError:
            raise EvidenceError("the journal is closed: nothing can be read") from None
        return await asyncio.wrap_future(future)

    def health(self) -> str | None:
        """Return None when the last group was written, else what is wrong, in one sentence."""
        if self._stopped or self._closing:
            return "the journal is closed"
        if self._trouble is not None:
            return self._trouble
        if len(self._queue) * 2 > self._max_queued:
            return f"`{len(self._queue)}` writes wait for the disk"
        return None

    async def erase(self, write: Write) -> None:
        """Run a write that must leave no trace: commit it, then empty the write-ahead log.

        Raises:
            EvidenceError: it was not written, or its old bytes are still in the write-ahead log.
        """
        self.stage(write)
        await self.barrier()
        done: list[bool] = []

        def truncate() -> None:
            with self._reader.connect() as connection:
                row = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                done.append(row[0] == 0)

        await asyncio.wrap_future(self._readers.submit(truncate))
        if done != [True]:
            raise EvidenceError("erased, but the write-ahead log could not be emptied: try again")

    async def close(self) -> None:
        """Write what is queued, stop the threads and release the lock. Closing twice is fine."""
        with self._mutex:
            if self._closing:
                return
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._reader.dispose()
        self._writer.dispose()
        self._lock_file.release()

    # The writer's thread, from here on.

    def _run(self) -> None:
        try:
            while True:
                with self._mutex:
                    while not self._queue and not self._closing:
                        self._wake.wait(LINGER_SECONDS)
                    if not self._queue:
                        break
                    if not self._waiters and not self._closing:
                        self._wake.wait(LINGER_SECONDS)
                    group, self._queue = self._queue, []
                    upto = self._staged
                self._finish(upto, self._commit(group))
        except BaseException as error:
            _log.exception("journal.writer_died")
            with self._mutex:
                self._stopped = True
            self._finish(self._staged, f"the journal's writer died: {type(error).__name__}")
            raise
        finally:
            self._stopped = True
            self._drop_connection(truncate=self._trouble is None)

    def _commit(self, group: list[Write | LeafRow]) -> str | None:
        """Write one group in one transaction; return None, or why all of it was lost."""
        try:
            connection, driver = self._connect()
            rows = [item for item in group if isinstance(item, LeafRow)]
            fresh: set[str] = set()
            with connection.begin():
                for item in group:
                    if not isinstance(item, LeafRow):
                        item(connection)
                if rows:
                    if self._next_index is None:
                        self._next_index = leaves.next_index(driver)
                    fresh = leaves.insert(driver, self._next_index, rows, self._keys)
        except Exception as error:  # noqa: BLE001 - whatever a write raises, its group is lost
            # A commit that failed may still be found on disk after a crash. Nobody was promised
            # it, and recovery treats what it finds as it treats any record without an outcome.
            _log.error("journal.group_lost", writes=len(group), reason=_cause(error))
            self._next_index = None
            self._drop_connection(truncate=False)
            return f"a group of writes was lost: {_cause(error)}"
        if self._next_index is not None:
            self._next_index += len(rows)
        if len(self._keys) > MAX_KNOWN_KEYS:
            self._keys.clear()
        self._keys |= fresh
        return None

    def _finish(self, upto: int, trouble: str | None) -> None:
        """Tell every barrier up to ``upto`` how its group went."""
        loops: dict[asyncio.AbstractEventLoop, list[_Waiter]] = {}
        with self._mutex:
            self._settled = upto
            self._trouble = trouble
            if trouble is not None:
                self._epoch += 1
            while self._waiters and self._waiters[0].target <= upto:
                waiter = self._waiters.popleft()
                loops.setdefault(waiter.loop, []).append(waiter)
        for loop, waiters in loops.items():
            with contextlib.suppress(RuntimeError):  # the loop closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, waiters, trouble)

    def _connect(self) -> tuple[Connection, sqlite3.Connection]:
        if self._connection is None:
            self._connection = self._writer.connect()
        return self._connection, driver_of(self._connection)

    def _drop_connection(self, *, truncate: bool) -> None:
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


def _tell(waiters: list[_Waiter], trouble: str | None) -> None:
    for waiter in waiters:
        if waiter.future.done():
            continue
        if trouble is not None and waiter.strict:
            waiter.future.set_exception(EvidenceError(trouble))
        else:
            waiter.future.set_result(None)


def _cause(error: BaseException) -> str:
    """Return what went wrong in one line, without a statement's parameters."""
    origin = getattr(error, "orig", None) or error
    if isinstance(origin, sqlite3.Error | OSError):
        return str(origin).splitlines()[0] if str(origin) else type(origin).__name__
    return type(origin).__name__
