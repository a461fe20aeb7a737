"""What comes up from agents and people holds no credential of ours, or it goes no further.

Nobody who asks should have one: whoever hands one in got it somewhere, so it is revoked as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from remit.gateway.leaks import LeakGuard
from remit.model.errors import InputError, RemitError
from remit.model.outcome import Leak
from remit.model.record import Context, Json, Step
from remit.model.task import Task
from remit.spine import Authority

log = structlog.get_logger()


class CredentialInsideError(InputError):
    """A request holds a credential that Remit minted."""

    code = "credential_inside"


async def require_none(
    value: Any, what: str, guard: LeakGuard, authority: Authority, context: Context
) -> None:
    """Refuse a value with a credential of ours in it, anywhere, and revoke that credential.

    Raises:
        CredentialInsideError: there is one; this leaves a record.
        EvidenceError: the refusal could not be recorded.
    """
    leaks = guard.look(value, rules=False)
    if not leaks:
        return
    await revoke(
        Step(kind="leak.refused", body={"in": what, "leaks": told(leaks)}),
        leaks,
        authority,
        context,
    )
    refusal = CredentialInsideError(
        f"the {what} holds a credential that remit minted: nothing was done with it, and the "
        "credential is revoked"
    )
    if context.call is not None:
        authority.evidence.stage(refusal.record(), context)
    await authority.evidence.barrier()
    raise refusal


def note_prompt(leaks: Sequence[Leak], task: Task, authority: Authority) -> None:
    """Record that a task's prompt or purpose holds others' credentials: which kinds, how many.

    Raises:
        EvidenceError: it could not be staged.
    """
    if leaks:
        body: dict[str, Json] = {"leaks": told(leaks)}
        authority.evidence.stage(Step(kind="task.prompt_leak", body=body), Context(task=task.id))


async def revoke(step: Step, leaks: Sequence[Leak], authority: Authority, context: Context) -> None:
    """Record that credentials were seen where they must not be, and revoke those that are ours."""
    try:
        authority.evidence.stage(step, context)
        await authority.leases.settle_these({k.lease for k in leaks if k.lease is not None})
    except RemitError as error:
        log.warning("left to the sweep", reason=str(error))


def told(leaks: Sequence[Leak]) -> list[Json]:
    """Return what a record says of leaks: rules, counts and leases, never a value."""
    return [{"rule": k.rule, "count": k.count, "lease": k.lease} for k in leaks]
