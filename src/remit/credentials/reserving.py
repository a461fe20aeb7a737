"""Draws up a lease and what is ordered under it: for how long, under which name, for how much."""

from __future__ import annotations

from datetime import datetime, timedelta

from remit.credentials.grants import fill_grant
from remit.credentials.port import Binding, Order
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.ids import new_id
from remit.model.lease import Lease, LeaseScope, LeaseState
from remit.model.task import Task


def draw_up(
    binding: Binding,
    task: Task,
    call: Call,
    decision: Decision,
    *,
    now: datetime,
    name: str,
    randomness: bytes,
    not_after: datetime | None = None,
) -> Order:
    """Return the order, with its lease, for what a permitted call needs.

    Args:
        binding: how the call's upstream gets its credentials.
        task: the call's; the lease outlives neither its mandate nor its template in force.
        call: what was permitted; its arguments may narrow the grant.
        decision: what permitted it.
        now: aware UTC.
        name: the handle, of our choosing.
        randomness: ten bytes, for the lease's id.
        not_after: the earliest of whatever else ends.

    Raises:
        InputError: the grant depends on an argument that the call does not have.
    """
    for_call = binding.scope is LeaseScope.CALL
    ends = [
        now + timedelta(seconds=binding.seconds),
        task.mandate.expires_at,
        # The template in force may be narrower than the one that the mandate was signed under.
        task.mandate.issued_at + timedelta(seconds=task.template.expires_seconds),
        *([] if not_after is None else [not_after]),
    ]
    lease = Lease(
        id=new_id("lease", now, randomness),
        task=task.id,
        call=call.id if for_call else None,
        broker=binding.name,
        target=call.upstream,
        scope=binding.scope,
        state=LeaseState.RESERVED,
        handle=name,
        expires_at=min(ends),
        reserved_at=now,
        revocation=binding.broker.traits.revocation,
        detail=decision.id,
        uses=1,
    )
    return Order(
        lease=lease,
        workload=str(task.mandate.workload),
        on_behalf_of=task.mandate.on_behalf_of,
        purpose=task.mandate.purpose,
        grant=fill_grant(binding.grant, task, call),
        call=call if for_call else None,
        ours=binding.ours,
    )
