"""What a start finds: the open tasks of the store, each below its parent, none that is not vouched for.

A task whose stored mandate does not verify, or names a parent that is not open or is not the one that
it was delegated from, is taken up to be ended, and admits nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

import structlog

from remit.model.errors import RemitError
from remit.model.mandate import Template
from remit.model.task import Task, TaskState
from remit.tasks import delegating
from remit.tasks.live import LiveTask
from remit.tasks.mandates import MANDATE_TYP, from_claims
from remit.tasks.ports import Signer, TaskStore

log = structlog.get_logger()

_PAGE = 500


async def take_up(
    store: TaskStore, signer: Signer, now: datetime, in_force: Callable[[Task], Template]
) -> Mapping[str, LiveTask]:
    """Return every open task of the store by its id."""
    found: dict[str, LiveTask] = {}
    after = None
    while True:
        page = await store.list(state=TaskState.OPEN, limit=_PAGE, after=after)
        for task in page:
            live = LiveTask(replace(task, template=in_force(task)))
            live.ending = not _vouched(task, signer, now)
            found[task.id] = live
        if len(page) < _PAGE:
            break
        after = page[-1].id
    for live in found.values():
        _link(live, found)
    return found


def _link(live: LiveTask, found: Mapping[str, LiveTask]) -> None:
    """Put a task below its parent."""
    named = live.task.mandate.parent
    if named is None or live.above:
        return
    parent = found.get(named.task)
    if parent is None or not delegating.names(live.task.mandate, parent.task):
        live.ending = True
        return
    _link(parent, found)
    live.above = parent.chain
    parent.below.append(live)


def _vouched(task: Task, signer: Signer, now: datetime) -> bool:
    """Return whether the stored mandate is one this authority signed; an expired one is due."""
    if task.mandate.expires_at <= now:
        return True
    try:
        claims = signer.verify(task.signed_mandate, typ=MANDATE_TYP)
        vouched = from_claims(claims) == task.mandate
    except RemitError:
        vouched = False
    if not vouched:
        log.error("a stored mandate does not verify: its task admits nothing", task=task.id)
    return vouched
