"""Ends what lost the task that it was delegated from: by a crash between two ends, or its agent's."""

from __future__ import annotations

import asyncio

import structlog

from remit.closing import close_task
from remit.model.errors import ConflictError, NotFoundError
from remit.model.task import TaskState
from remit.spine import Authority

log = structlog.get_logger()


async def end_disowned(authority: Authority) -> None:
    """End every delegated task whose parent is over, or whose delegator is not active.

    Their ends are recorded with the task that they were delegated from. One that cannot be ended now
    holds up no other.

    Raises:
        EvidenceError: an end could not be made durable; the task admits nothing all the same.
    """
    found = authority.tasks.disowned()
    ended = await asyncio.gather(
        *(_end(task_id, parent, authority) for task_id, parent in found), return_exceptions=True
    )
    for error in ended:
        if isinstance(error, BaseException):
            raise error


async def _end(task_id: str, parent: str, authority: Authority) -> None:
    try:
        above = (await authority.tasks.get(parent)).state
    except NotFoundError:
        above = TaskState.CANCELLED  # nothing stands behind it
    state = TaskState.EXPIRED if above is TaskState.EXPIRED else TaskState.CANCELLED
    try:
        await close_task(task_id, state, "remit", authority, ended_with=parent)
    except ConflictError:
        return  # somebody ends it
    log.warning("a delegated task ended with what it was delegated from", task=task_id, of=parent)
