"""What a start and a stop leave in the log, and what a start puts right first."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime

import structlog

from remit import __version__
from remit.app.clock import TOLERATED
from remit.app.config import Loaded
from remit.app.disowned import end_disowned
from remit.closing import close_task
from remit.evidence.ledger import Ledger
from remit.model.record import Context, Step
from remit.model.task import TaskState
from remit.spine import Authority
from remit.storage.sqlite.journal import Journal

log = structlog.get_logger()


def accepted(journal: Journal) -> list[Step]:
    """Return the record of what was changed at rest and the owner stands by; none where nothing."""
    found = list(journal.accepted)
    return [Step(kind="authority.state_accepted", body={"found": found})] if found else []


async def put_right(authority: Authority) -> None:
    """Finish what a crash cut off among the ends of tasks, and what a clock would lengthen."""
    await _end_what_time_lengthened(authority)
    await end_disowned(authority)


async def _end_what_time_lengthened(authority: Authority) -> None:
    """End every open task where the clock is set back since the last record: nobody knows how far."""
    last = authority.evidence.last_at
    if last is None or last - authority.clock() <= TOLERATED:
        return
    log.warning("the clock was set back while remit was stopped: open tasks end", last=str(last))
    for task_id in authority.tasks.due(datetime.max.replace(tzinfo=UTC)):
        await close_task(task_id, TaskState.EXPIRED, "remit", authority)


def started(loaded: Loaded, ledger: Ledger) -> Step:
    """Return the record of a start."""
    return Step(
        kind="authority.started",
        body={
            "version": __version__,
            "trust_domain": loaded.config.authority.trust_domain,
            "log": ledger.signer.vkey,
            "upstreams": sorted(loaded.config.upstreams),
            "services": sorted(loaded.config.services),
            "pid": os.getpid(),
        },
    )


async def stopped(ledger: Ledger) -> None:
    """Leave the record of a stop, if the log can still be written."""
    with contextlib.suppress(Exception):
        ledger.stage(Step(kind="authority.stopped", body={"pid": os.getpid()}), Context())
        await ledger.barrier()
