"""How a task ends, and every task below it: admitted no more from the first line, recorded together.

The end of a tree waits for the calls in flight, which those of a task below are in every task above,
and then says the ends in one breath, the deepest first, so that no crash between two of them leaves one
open below one that ended. Were there one all the same, a start finds and ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import MutableMapping
from dataclasses import replace

import structlog

from remit.model.errors import ConflictError
from remit.model.record import Context, Recorder
from remit.model.task import Task, TaskState
from remit.tasks.live import LiveTask
from remit.tasks.ports import Clock, TaskStore
from remit.tasks.sessions import Sessions
from remit.tasks.steps import ended

log = structlog.get_logger()


class Endings:
    """Ends open tasks. ``open_tasks`` and ``late`` are the desk's own, which tasks leave here."""

    def __init__(
        self,
        *,
        open_tasks: MutableMapping[str, LiveTask],
        late: MutableMapping[str, LiveTask],
        sessions: Sessions,
        store: TaskStore,
        recorder: Recorder,
        clock: Clock,
        wait_seconds: float,
    ) -> None:
        self._open = open_tasks
        self._late = late
        self._sessions = sessions
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._running: set[asyncio.Future[tuple[Task, ...]]] = set()

    async def end(
        self, live: LiveTask, state: TaskState, by: str, ended_with: str | None
    ) -> tuple[Task, ...]:
        """End a task and all below it; return them, the deepest first.

        Nothing new is admitted from the first line on. A caller that goes away does not stop it.

        Raises:
            ConflictError: it is being ended.
            EvidenceError: it could not be made durable; nothing is admitted all the same.
        """
        if live.closing:
            raise ConflictError(f"task `{live.task.id}` is being closed")
        tree = live.tree()
        mine = [each for each in tree if not each.closing]
        for each in tree:
            each.ending = each.closing = True
        ending = asyncio.ensure_future(self._end(live, mine, state, by, ended_with))
        for each in mine:
            each.end = ending
        self._running.add(ending)
        ending.add_done_callback(self._done)
        return await asyncio.shield(ending)

    async def _end(
        self,
        live: LiveTask,
        mine: list[LiveTask],
        state: TaskState,
        by: str,
        ended_with: str | None,
    ) -> tuple[Task, ...]:
        try:
            await self._settled_below(live, mine)
            if live.in_flight:
                with contextlib.suppress(TimeoutError):  # its answer will find the task closed
                    async with asyncio.timeout(self._wait_seconds):
                        await live.idle.wait()
            mine[:] = [each for each in live.tree() if each in mine]
            landed = [await self._landed(each) for each in mine]
            for each, before in zip(mine, landed, strict=True):
                cause = ended_with if each is live else ended_with or live.task.id
                self._close(each, before, _state(state, own=each is live), by, cause)
            await self._recorder.barrier()
        except BaseException:
            for each in mine:
                each.task = replace(
                    each.task, state=TaskState.OPEN, closed_at=None, closed_by=None, ended_with=None
                )
                each.closing, each.end = False, None
            raise
        for each in mine:
            self._leave(each)
        return tuple(each.task for each in mine)

    async def _settled_below(self, live: LiveTask, mine: list[LiveTask]) -> None:
        """Wait for what is under way below: an opening, and an end that began before this one.

        A task below whose own end failed is ended here after all.
        """
        for each in live.tree():
            if each.opened is not None:
                await each.opened.wait()
        while others := {e.end for e in live.tree() if e.end is not None and e not in mine}:
            await asyncio.wait(others)
        for each in live.tree():
            if not each.closing:
                each.closing = True
                mine.append(each)

    def _close(
        self, live: LiveTask, landed: Task | None, state: TaskState, by: str, cause: str | None
    ) -> None:
        closed = replace(
            live.task, state=state, closed_at=self._clock(), closed_by=by, ended_with=cause
        )
        if landed is not None:
            closed = replace(
                closed,
                state=landed.state,
                closed_at=landed.closed_at,
                closed_by=landed.closed_by,
                ended_with=landed.ended_with,
            )
        # From here on a late answer settles into the closed task, not over it.
        live.task = closed
        if landed is None:
            live.staged_end = (self._recorder.epoch, closed)
            self._recorder.stage(ended(closed), Context(task=closed.id))
        self._store.put(closed)

    async def _landed(self, live: LiveTask) -> Task | None:
        """Return the end that an earlier attempt wrote after all: a task ends once in the log."""
        if live.staged_end is None:
            return None
        epoch, closed = live.staged_end
        await self._recorder.barrier()
        return closed if self._recorder.epoch == epoch else None

    def _leave(self, live: LiveTask) -> None:
        task_id = live.task.id
        self._open.pop(task_id, None)
        if live.in_flight:
            self._late[task_id] = live
        if live.above:
            live.above[0].below.remove(live)
        self._sessions.release(task_id)

    def _done(self, ending: asyncio.Future[tuple[Task, ...]]) -> None:
        self._running.discard(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:
            log.warning("a task could not be closed", reason=str(error))


def _state(state: TaskState, *, own: bool) -> TaskState:
    """Return what becomes of a task below: it did not complete because its parent did."""
    return state if own or state is TaskState.EXPIRED else TaskState.CANCELLED
