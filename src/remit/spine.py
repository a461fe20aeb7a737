"""The story of one call, from a caller's claim to a settled lease, and nothing else.

Three barriers hold promise 2: what was staged is durable before anything is minted, before the
call acts, and before the caller hears how it ended. A call that acted has exactly one outcome.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NoReturn

import structlog

from remit.approvals.desk import ApprovalDesk
from remit.credentials.leases import Leases
from remit.evidence.ledger import Ledger
from remit.evidence.trail import Trail
from remit.identity.desk import Identity
from remit.identity.registry import Registry
from remit.model.call import Call
from remit.model.catalogue import Tool
from remit.model.decision import Decision, Effect
from remit.model.errors import (
    ApprovalRequiredError,
    EvidenceError,
    InputError,
    RemitError,
    UnavailableError,
)
from remit.model.label import Label
from remit.model.lease import Credential, Lease, LeaseScope
from remit.model.outcome import Ending, Leak, Outcome
from remit.model.record import Recordable
from remit.model.subject import Claim, Subject
from remit.model.task import Task
from remit.policy.catalogue import Catalogue
from remit.policy.engine import Policy, Question
from remit.tasks.desk import TaskDesk

log = structlog.get_logger()

Act = Callable[[Call, Decision, Credential | None], Awaitable[Outcome]]
"""Makes the call with the credential and says how it ended; raises a RemitError if it could not."""

Understand = Callable[[Call], Awaitable[Call]]
"""Returns a call with what it is about among its arguments; raises an InputError if it cannot tell."""

_NEVER_ACTED = "cut short before it acted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long each step may take, in seconds; past it the step counts as failed, never as done."""

    identify_seconds: float = 10.0
    decide_seconds: float = 2.0
    issue_seconds: float = 15.0
    settle_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Every room that carries a call, put together by the app."""

    identity: Identity
    registry: Registry
    tasks: TaskDesk
    approvals: ApprovalDesk
    policy: Policy
    catalogue: Catalogue
    leases: Leases
    evidence: Ledger
    clock: Callable[[], datetime]
    limits: Limits = field(default_factory=Limits)


async def perform(
    claim: Claim,
    call: Call,
    act: Act,
    authority: Authority,
    *,
    understand: Understand | None = None,
) -> Outcome:
    """Carry one call from a caller's claim to a settled lease.

    Raises:
        InputError: what the call is about cannot be told, or its arguments do not fit its grant.
        UnidentifiedError: the caller did not prove who it is.
        MandateError: no open task of this caller's admits the call.
        ApprovalRequiredError: policy wants a person's yes; it carries the approval asked for.
        DeniedError: policy refused; it carries the decision.
        BrokerError: the target would not mint.
        UpstreamError: the act could not be made.
        EvidenceError: what happened could not be made durable; if it was before the act,
            nothing acted.
        UnavailableError: a step took longer than its limit.
    """
    trail = Trail(authority.evidence, call=call.id, trace=call.trace)
    try:
        _require_evidence(authority)
        tool = authority.catalogue.find(call.target)
        async with _limit(authority.limits.identify_seconds, "identifying the caller"):
            subject = await authority.identity.identify(claim)
            task = await _admit(claim, subject, trail, authority)
        call = await _understood(call, understand, authority)
        task = await authority.tasks.get(task.id)  # as it is now: reading a call takes a while
        approval = authority.approvals.granted(
            task_id=task.id, call=call, bundle_digest=authority.policy.bundle_digest
        )
        question = Question(
            subject=subject,
            task=task,
            call=call,
            tool=tool,
            bounds=authority.tasks.measure(task, call),
            approval=approval,
            now=authority.clock(),
        )
        decision = trail.leave(await _decide(question, authority))
        if decision.effect is Effect.APPROVAL_REQUIRED:
            await _ask(question, decision, authority)
        decision.require_permit()
        authority.tasks.spend(task.id, call)
    except RemitError as refusal:
        await _to_the_end(_say(refusal, trail, call, authority))
        raise
    except BaseException:
        # Cancelled, or a fault of ours: nothing acted.
        never = Outcome(ending=Ending.FAILED, target=call.target, detail=_NEVER_ACTED)
        await _put_right(_say(never, trail, call, authority))
        raise

    flight = _Flight(trail, task, call, tool, authority)
    try:
        if approval is not None:
            authority.approvals.consume(approval.id)
        flight.lease = authority.leases.reserve(
            task,
            call,
            decision,
            not_after=task.ends_at if approval is None else min(task.ends_at, approval.expires_at),
            basis=question,
        )
        credential = None
        if flight.lease is not None:
            async with _limit(authority.limits.issue_seconds, "issuing the credential"):
                credential = await authority.leases.issue(flight.lease, durable=trail.barrier)
        await trail.barrier()
        if flight.lease is not None:
            authority.leases.require_usable(flight.lease)
        authority.tasks.require_open(task.id)
        flight.acting = True
        outcome = await act(call, decision, credential)
    except RemitError as failure:
        await _to_the_end(flight.settle(failure))
        raise
    except BaseException:
        # Cancelled, or a fault of ours: whether the upstream acted is not known here.
        await _put_right(flight.settle(flight.unfinished()))
        raise
    if tool is not None:
        outcome = replace(outcome, label=outcome.label.join(tool.label))
    await _to_the_end(flight.settle(outcome))
    return outcome


def _require_evidence(authority: Authority) -> None:
    """Raise where records are not written, or long not published: nothing may act unseen."""
    if (trouble := authority.evidence.refusal()) is not None:
        raise EvidenceError(trouble)


async def _admit(claim: Claim, subject: Subject, trail: Trail, authority: Authority) -> Task:
    """Find the caller's task, and leave who it is in that task's chain; or in none."""
    try:
        task = await authority.tasks.admit(claim, subject)
        trail.bind(task.id)
    finally:
        trail.leave(subject)
    return trail.leave(task)


async def _understood(call: Call, understand: Understand | None, authority: Authority) -> Call:
    if understand is None:
        return call
    async with _limit(authority.limits.decide_seconds, "reading the call"):
        return await understand(call)


async def _say(ending: Recordable, trail: Trail, call: Call, authority: Authority) -> None:
    """Record how a call ended, and wait until that is durable.

    Raises:
        EvidenceError: it is not, or something of this call's is not. What was lost with a group of
            writes is said once more, for the log may have room again before the next start.
    """
    try:
        _leave(ending, trail, call)
        await trail.barrier()
    except EvidenceError:
        await _say_again(ending, trail, call, authority)
        raise


async def _say_again(ending: Recordable, trail: Trail, call: Call, authority: Authority) -> None:
    authority.evidence.owe(call.id, lambda: _leave(ending, trail, call))
    await authority.evidence.pay()


def _leave(ending: Recordable, trail: Trail, call: Call) -> None:
    """Record how a call ended; shorter, where what it said is too long for a record."""
    try:
        trail.leave(ending)
    except InputError as error:
        kept = ending.ending if isinstance(ending, Outcome) else Ending.FAILED
        said = f"how it ended could not be recorded whole: {error}"
        trail.leave(Outcome(ending=kept, target=call.target, detail=said))


async def _decide(question: Question, authority: Authority) -> Decision:
    async with _limit(authority.limits.decide_seconds, "deciding"):
        return await authority.policy.decide(question)


async def _ask(question: Question, decision: Decision, authority: Authority) -> NoReturn:
    authority.tasks.require_open(question.task.id)  # nobody is asked for a task that ended
    asked = await authority.approvals.ask(
        decision=decision, call=question.call, task=question.task, subject=question.subject
    )
    raise ApprovalRequiredError(decision, asked)


class _Flight:
    """A permitted call on its way: what has to be put right however it ends."""

    def __init__(
        self, trail: Trail, task: Task, call: Call, tool: Tool | None, authority: Authority
    ) -> None:
        self.lease: Lease | None = None
        self.acting = False
        self._trail = trail
        self._task = task
        self._call = call
        self._tool = tool
        self._authority = authority
        self._began = time.monotonic()

    def unfinished(self) -> Outcome:
        """Return the outcome of a call that was cut short."""
        return Outcome(
            ending=Ending.UNKNOWN if self.acting else Ending.FAILED,
            target=self._call.target,
            seconds=time.monotonic() - self._began,
            detail="cut short before the answer" if self.acting else _NEVER_ACTED,
        )

    async def settle(self, ending: Recordable) -> None:
        """Record how the call ended, free what it held, and wait until that is durable."""
        authority = self._authority
        label = ending.label if isinstance(ending, Outcome) else Label()
        if self._tool is not None and self.acting:
            # A failed call has touched its target all the same.
            label = label.join(self._tool.label)
        authority.tasks.settle(
            self._task.id, self._call, seconds=time.monotonic() - self._began, label=label
        )
        try:
            try:
                _leave(ending, self._trail, self._call)
            finally:
                await self._revoke(ending.leaks if isinstance(ending, Outcome) else ())
            await self._trail.barrier()
        except EvidenceError:
            await _say_again(ending, self._trail, self._call, authority)
            raise

    async def _revoke(self, leaks: Sequence[Leak]) -> None:
        """Revoke what the call held or let out. What fails is asked again by the sweep.

        Raises:
            EvidenceError: the revocation could not be made durable.
        """
        over = {leak.lease for leak in leaks if leak.lease is not None}
        if self.lease is not None and self.lease.scope is LeaseScope.CALL:
            over.add(self.lease.id)
        if not over:
            return
        try:
            async with _limit(self._authority.limits.settle_seconds, "revoking the credential"):
                await self._authority.leases.settle_these(over)
        except EvidenceError:
            raise
        except RemitError as error:
            log.warning("left to the sweep", leases=sorted(over), reason=str(error))


async def _to_the_end(settling: Coroutine[None, None, None]) -> None:
    """Await ``settling`` to its end, however often the caller is cancelled meanwhile."""
    running = asyncio.ensure_future(settling)
    cut: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cut = error
    if cut is None:
        return running.result()
    if not running.cancelled() and (failure := running.exception()) is not None:
        log.error("a cut-short call could not be settled", exc_info=failure)
    raise cut


async def _put_right(settling: Coroutine[None, None, None]) -> None:
    """Settle while something worse is being raised, which a failure here must not replace."""
    try:
        await _to_the_end(settling)
    except RemitError:
        log.exception("a cut-short call could not be settled")


class _limit:  # noqa: N801 - reads as a statement, like asyncio.timeout
    """Turn what outlasts ``seconds``, or breaks, into an UnavailableError that names the step."""

    def __init__(self, seconds: float, step: str) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._seconds = seconds
        self._step = step

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)  # type: ignore[arg-type]
        except TimeoutError:
            raise UnavailableError(
                f"{self._step} took longer than {self._seconds:g} seconds"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, RemitError):
            log.error("a step broke", step=self._step, exc_info=error)
            raise UnavailableError(f"{self._step} failed inside remit") from error
