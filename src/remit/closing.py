"""The end of a task: nothing below it acts, every credential is taken back, its chain is sealed."""

from __future__ import annotations

import asyncio

import structlog

from remit.model.lease import Lease
from remit.model.task import Task, TaskState
from remit.proof.story import LEASE_ENDS
from remit.spine import Authority

log = structlog.get_logger()

_running: set[asyncio.Future[Task]] = set()


async def close_task(
    task_id: str,
    state: TaskState,
    by: str,
    authority: Authority,
    *,
    ended_with: str | None = None,
) -> Task:
    """End a task and every task below it: no call acts, leases are settled, chains are sealed.

    ``ended_with`` names the task that it was delegated from, where that is why it ends. A caller that
    goes away does not stop it.

    Where a target does not take a credential back now, the task is closed and its seal waits
    until the sweep ended the lease; :func:`seal_ended` seals it then.

    Raises:
        NotFoundError: there is no such task.
        ConflictError: it is closed already.
        EvidenceError: the end could not be made durable.
    """
    closing = asyncio.ensure_future(_close(task_id, state, by, authority, ended_with))
    _running.add(closing)
    closing.add_done_callback(_done)
    return await asyncio.shield(closing)


def _done(closing: asyncio.Future[Task]) -> None:
    _running.discard(closing)
    if not closing.cancelled() and (error := closing.exception()) is not None:
        log.debug("a task was not ended, or not sealed yet", reason=str(error))


async def _close(
    task_id: str, state: TaskState, by: str, authority: Authority, ended_with: str | None
) -> Task:
    ended = await authority.tasks.close_tree(task_id, state, by, ended_with=ended_with)
    for task in ended:
        authority.approvals.end_task(task.id)
        authority.evidence.owe_seal(task.id)
    settling = (authority.leases.settle_task(task.id) for task in ended)
    failed = [e for e in await asyncio.gather(*settling, return_exceptions=True) if e is not None]
    if failed:
        raise failed[0]
    for task in ended:
        if _unended(task.id, authority):
            await authority.evidence.barrier()
        else:
            await authority.evidence.seal_owed(task.id)
    return ended[-1]


async def seal_ended(authority: Authority) -> None:
    """Seal every task that ended and has no lease below it that is still being revoked.

    Raises:
        EvidenceError: a seal could not be made durable; it is owed still.
    """
    for task_id in authority.evidence.unsealed:
        if not _unended(task_id, authority):
            await authority.evidence.seal_owed(task_id)


def why_unsealed(task_id: str, authority: Authority) -> str | None:
    """Return why a task that ended is not sealed yet, or None where nothing is known to be owed."""
    if task_id not in authority.evidence.unsealed:
        return None
    below = _unended(task_id, authority)
    if not below:
        return "the task is not sealed yet: its seal is being written"
    return "; ".join(
        f"the task is not sealed yet: lease `{lease.id}` at `{lease.target}` is still being revoked"
        for lease in below[:1]
    ) + (f", and {len(below) - 1} more" if len(below) > 1 else "")


def _unended(task_id: str, authority: Authority) -> list[Lease]:
    """Return the leases below a task that no record ends yet."""
    return [
        lease
        for lease in authority.leases.open_leases()
        if lease.task == task_id and lease.state.value not in LEASE_ENDS
    ]
