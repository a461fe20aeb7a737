"""One ordered writer over one SQLite file: state and records, committed in groups.

The rules it keeps:

- Writes run in the order in which they were staged, on one thread, and a group is one transaction
  with one fsync (WAL, ``synchronous=FULL``).
- What the event loop stages without an await in between is never split between two groups: a crash
  finds a record and the row that goes with it, or neither.
- A barrier returns only when everything staged before it is on disk. It raises when its own group
  was lost, and also when any group was lost since the same asyncio task first staged something.
- A lost group is lost whole, and with it whatever was staged behind it, for that may follow from
  it: every barrier waiting for either raises, and ``epoch`` moves. A write that raises costs its
  group, so encode what you stage before you stage it.
- Nobody waits longer than ``wait_seconds`` for a disk that does not answer. What was staged may
  then still be written, in its order; while it hangs, everybody is told at once.
- The queue is bounded. When it is full, staging raises instead of growing.
- The working tables are sealed: what was changed in them at rest is found when they are opened.
- One process at a time: a lock file, held with flock for as long as the journal is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.exc import SQLAlchemyError

from remit.evidence.ports import LeafRow
from remit.model.errors import EvidenceError
from remit.storage.sqlite.engine import open_reader, prepare_files
from remit.storage.sqlite.lock import StateLock
from remit.storage.sqlite.migrations import migrate
from remit.storage.sqlite.seals import Row, Seals
from remit.storage.sqlite.state import open_seals
from remit.storage.sqlite.writer import GroupWriter, Item, Write, cause

T = TypeVar("T")
Clock = Callable[[], datetime]

MAX_QUEUED = 65_536
"""Writes that may wait; about 100 MB at the usual size of a record with its payloads."""
LINGER_SECONDS = 0.1
"""How long a write that nobody waits for may stay in memory."""
WAIT_SECONDS = 10.0
"""How long a caller waits for a disk that does not answer, unless told otherwise."""

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

    def __init__(
        self,
        path: Path,
        lock: StateLock,
        seals: Seals,
        *,
        max_queued: int,
        wait_seconds: float,
    ) -> None:
        self.path = path
        self._accepted: tuple[str, ...] = ()
        self._seals = seals
        self._lock_file = lock
        self._max_queued = max_queued
        self._wait_seconds = wait_seconds
        self._mutex = threading.Lock()
        self._wake = threading.Condition(self._mutex)
        self._queue: list[Item] = []
        self._breath: list[Item] = []
        self._breath_lost = False
        self._waiters: deque[_Waiter] = deque()
        self._staged = 0
        self._settled = 0
        self._epoch = 0
        self._trouble: str | None = None
        self._stuck: str | None = None
        self._closing = False
        self._stopped = False
        self._began: weakref.WeakKeyDictionary[asyncio.Task[object], int] = (
            weakref.WeakKeyDictionary()
        )
        self._writer = GroupWriter(path, seals)
        self._reader: Engine = open_reader(path)
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="remit-read")
        self._thread = threading.Thread(target=self._run, name="remit-journal", daemon=True)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock: Clock = _now,
        max_queued: int = MAX_QUEUED,
        wait_seconds: float = WAIT_SECONDS,
        accept_state: bool = False,
    ) -> Journal:
        """Open the state file at ``path``, creating it (0600) and its folder (0700) if need be.

        Args:
            path: the SQLite file; the lock file is beside it, with ``.lock`` added.
            clock: tells the time that the lock file shows to whoever comes second.
            max_queued: how many writes may wait before staging raises.
            wait_seconds: how long a barrier, a read or the end waits for the disk.
            accept_state: take the working tables as they stand; see :attr:`accepted`.

        Raises:
            ProofError: rows of the working tables were changed, removed or put back at rest.
            ConfigError: another process holds it (and which), or it cannot be created or migrated.
        """
        prepare_files(path)
        lock = StateLock.take(path.with_name(path.name + ".lock"), at=clock())
        try:
            migrate(path)
            seals, accepted = open_seals(path, accept=accept_state)
            journal = cls(path, lock, seals, max_queued=max_queued, wait_seconds=wait_seconds)
            journal._accepted = accepted
        except BaseException:
            lock.release()
            raise
        journal._thread.start()
        return journal

    @property
    def epoch(self) -> int:
        """How many groups were lost so far."""
        return self._epoch

    @property
    def hung(self) -> bool:
        """Whether the end came without the writer: its thread waits for the disk still."""
        return self._closing and self._thread.is_alive()

    @property
    def accepted(self) -> tuple[str, ...]:
        """What was found in the working tables and taken as it stood, and is not on record yet."""
        return self._accepted

    def accepted_is_recorded(self) -> None:
        """Say that the record of what was accepted is staged: no later start has to leave it.

        Raises:
            EvidenceError: as :meth:`stage`.
        """
        self.stage(lambda _: self._seals.recorded())

    def stage(self, write: Write) -> None:
        """Stage a write; it runs on the writer's thread, in its turn, inside the group.

        Raises:
            EvidenceError: the queue is full, or the journal is closed; nothing was staged.
        """
        self._append(write)

    def stage_row(self, table: Table, values: Mapping[str, object]) -> None:
        """Stage a row of a working table, in the place of the one with its key; it is sealed.

        Raises:
            EvidenceError: the queue is full, or the journal is closed; nothing was staged.
        """
        self._append(Row(table, values))

    def stage_leaf(self, leaf: LeafRow) -> None:
        """Stage a record in the same order; its index is given inside the transaction.

        Raises:
            EvidenceError: the queue is full, or the journal is closed; nothing was staged.
        """
        self._append(leaf)

    def _append(self, item: Item) -> None:
        loop: asyncio.AbstractEventLoop | None
        try:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
        except RuntimeError:
            loop = task = None
        with self._mutex:
            if self._closing or self._stopped:
                raise EvidenceError("the journal is closed: nothing can be written")
            if len(self._queue) + len(self._breath) >= self._max_queued:
                raise EvidenceError(
                    f"`{self._max_queued}` writes wait for the disk already: try again later"
                )
            if task is not None and task not in self._began:
                self._began[task] = self._epoch
            if self._breath_lost and loop is not None:
                return  # what it goes with is lost
            self._staged += 1
            if loop is None:
                self._queue.append(item)
                return
            self._breath.append(item)
            if len(self._breath) == 1:
                loop.call_soon(self._breathe)

    def _breathe(self) -> None:
        """Give the writer what was staged since the event loop's last turn, whole."""
        with self._mutex:
            if self._breath_lost:
                # It counts as a group of its own: no barrier takes what was dropped for written.
                self._epoch += 1
                self._breath_lost = False
            half = self._max_queued / 2
            below = len(self._queue) < half
            self._queue += self._breath
            self._breath.clear()
            if below and len(self._queue) >= half:
                self._wake.notify()

    async def barrier(self) -> None:
        """Wait until everything staged so far is durable.

        Raises:
            EvidenceError: it was lost, or a group was lost since this asyncio task first staged
                something after its last barrier; or the disk does not answer, and it may still
                be written.
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
        self._breathe()
        with self._mutex:
            if self._stopped and self._settled < self._staged:
                raise EvidenceError("the journal is closed: nothing can be written")
            if self._settled >= self._staged:
                if strict and self._trouble is not None:
                    raise EvidenceError(self._trouble)
                return
            if self._stuck is not None:
                raise EvidenceError(self._stuck)
            loop = asyncio.get_running_loop()
            waiter = _Waiter(self._staged, loop, loop.create_future(), strict)
            self._waiters.append(waiter)
            self._wake.notify()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await waiter.future
        except TimeoutError:
            silent = self._silent("what was staged may still be written")
            with self._mutex:
                if self._settled < waiter.target:
                    self._stuck = silent
            raise EvidenceError(silent) from None

    def _silent(self, meaning: str) -> str:
        return f"the disk has not answered for {self._wait_seconds:g} seconds: {meaning}"

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run ``query`` on the read connection's own thread; it sees what was staged before it.

        Writes that were lost are not seen, and are not an error here.

        Raises:
            EvidenceError: the file cannot be read, or the disk does not answer.
        """
        await self._settle(strict=False)

        def run() -> T:
            try:
                with self._reader.connect() as connection:
                    return query(connection)
            except SQLAlchemyError as error:
                raise EvidenceError(f"the state file cannot be read: {cause(error)}") from error

        return await self._on_reader(run)

    async def _on_reader(self, run: Callable[[], T]) -> T:
        try:
            future = self._readers.submit(run)
        except RuntimeError:
            raise EvidenceError("the journal is closed: nothing can be read") from None
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise EvidenceError(self._silent("the state file cannot be read")) from None

    def health(self) -> str | None:
        """Return None when the last group was written, else what is wrong, in one sentence."""
        if self._stopped or self._closing:
            return "the journal is closed"
        trouble = self._stuck or self._trouble
        if trouble is not None:
            return trouble
        waiting = len(self._queue) + len(self._breath)
        if waiting * 2 > self._max_queued:
            return f"`{waiting}` writes wait for the disk"
        return None

    async def erase(self, write: Write) -> None:
        """Run a write that must leave no trace: commit it, then empty the write-ahead log.

        Raises:
            EvidenceError: it was not written, or its old bytes are still in the write-ahead log.
        """
        self.stage(write)
        await self.barrier()

        def truncate() -> bool:
            with self._reader.connect() as connection:
                row = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                return bool(row[0] == 0)

        if not await self._on_reader(truncate):
            raise EvidenceError("erased, but the write-ahead log could not be emptied: try again")

    async def close(self) -> None:
        """Write what is queued, stop the threads and release the lock. Closing twice is fine.

        Raises:
            EvidenceError: the disk does not answer; the lock is held until the process ends.
        """
        with self._mutex:
            if self._closing:
                return
        self._breathe()
        with self._mutex:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join, self._wait_seconds)
        if self._thread.is_alive():
            self._readers.shutdown(wait=False, cancel_futures=True)
            raise EvidenceError(
                self._silent("remit ends without it, and what was not written is lost")
            )
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
                    upto = self._staged - len(self._breath)
                self._finish(upto, self._writer.commit(group))
        except BaseException as error:
            _log.exception("journal.writer_died")
            with self._mutex:
                self._stopped = True
            self._finish(self._staged, f"the journal's writer died: {type(error).__name__}")
            raise
        finally:
            self._stopped = True
            self._writer.drop(truncate=self._trouble is None)

    def _finish(self, upto: int, trouble: str | None) -> None:
        """Tell every barrier up to ``upto`` how its group went."""
        loops: dict[asyncio.AbstractEventLoop, list[_Waiter]] = {}
        with self._mutex:
            if trouble is not None:
                self._epoch += 1
                # What was staged behind it may follow from it, and was staged for tasks that are
                # told of the loss.
                self._queue.clear()
                self._breath_lost = self._breath_lost or bool(self._breath)
                self._breath.clear()
                upto = self._staged
            self._settled = upto
            self._trouble = trouble
            self._stuck = None
            while self._waiters and self._waiters[0].target <= upto:
                waiter = self._waiters.popleft()
                loops.setdefault(waiter.loop, []).append(waiter)
        for loop, waiters in loops.items():
            with contextlib.suppress(RuntimeError):  # the loop closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, waiters, trouble)


def _tell(waiters: list[_Waiter], trouble: str | None) -> None:
    for waiter in waiters:
        if waiter.future.done():
            continue
        if trouble is not None and waiter.strict:
            waiter.future.set_exception(EvidenceError(trouble))
        else:
            waiter.future.set_result(None)
