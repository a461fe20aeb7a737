"""The approval desk: one person's yes to one exact call, once.

An approval is bound to the digest of the call, its task, its requester and the bundle that asked,
expires, and is used by one call only. It is not a permit: with it, the call is decided again.
"""

from __future__ import annotations

import asyncio
import secrets
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from remit.approvals.ports import ApprovalStore, Clock, OpenPreview
from remit.approvals.preview import preview
from remit.model.approval import Approval, ApprovalState
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.errors import ConflictError, NotFoundError, RemitError
from remit.model.ids import new_id
from remit.model.record import Context, Recorder
from remit.model.subject import Person, Subject
from remit.model.task import Task

log = structlog.get_logger()

ADMIN = "admin"
"""The role of the authority's owner, who holds every other."""

_LIVE = {ApprovalState.PENDING, ApprovalState.APPROVED}
_MAX_COMMENT = 2000
_PAGE = 500
_ID_BYTES = 10


class NotEligibleError(RemitError):
    """This person may not decide this approval; ``task`` is the one that waits for it."""

    status = 403
    code = "not_eligible"

    def __init__(self, message: str, task: str | None = None) -> None:
        super().__init__(message)
        self.task = task


class ApprovalDesk:
    """Asks, grants, denies, uses up and expires approvals.

    Live approvals are kept in memory and changed without an await in between. A decision is found
    by calls only once it is durable: until then the approval is pending, and nobody else decides.
    """

    def __init__(
        self,
        *,
        store: ApprovalStore,
        recorder: Recorder,
        clock: Clock,
        open_preview: OpenPreview,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        expires_seconds: int = 900,
        self_approval: bool = False,
        max_pending_per_task: int = 20,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._open_preview = open_preview
        self._randomness = randomness
        self._expires = timedelta(seconds=expires_seconds)
        self._self_approval = self_approval
        self._max_pending = max_pending_per_task
        self._live: dict[str, Approval] = {}
        self._deciding: dict[str, asyncio.Future[Approval]] = {}
        self._asked_in: dict[str, int] = {}
        self._ended: set[str] = set()

    async def load(self) -> None:
        """Take up the pending and approved ones of the store, after a start."""
        for state in _LIVE:
            after = None
            while True:
                page = await self._store.list(state=state, limit=_PAGE, after=after)
                self._live |= {approval.id: approval for approval in page}
                if len(page) < _PAGE:
                    break
                after = page[-1].id

    async def ask(
        self, *, decision: Decision, call: Call, task: Task, subject: Subject
    ) -> Approval:
        """Ask for a yes to this exact call; while one is pending, return that one.

        Raises:
            ConflictError: the task has as many pending approvals as it may have.
        """
        self.expire_due()
        pending = [
            approval
            for approval in self._live.values()
            if approval.task == task.id and approval.state is ApprovalState.PENDING
        ]
        for approval in [each for each in pending if each.call_digest == call.digest]:
            if approval.bundle_digest != decision.bundle_digest:
                # Policy has changed since: a yes to the old question could not be used.
                if approval.id not in self._deciding:
                    self._keep(replace(approval, state=ApprovalState.EXPIRED))
                    pending.remove(approval)
                continue
            if self._asked_in.get(approval.id, self._recorder.epoch) != self._recorder.epoch:
                # The group that held the question may be lost: ask it again, in writing.
                return self._keep(replace(approval, preview=preview(call)))
            return approval
        if len(pending) >= self._max_pending:
            raise ConflictError(
                f"the task waits for {len(pending)} approvals already: wait until one is decided"
            )
        now = self._clock()
        approval = Approval(
            id=new_id("apr", now, self._randomness(_ID_BYTES)),
            task=task.id,
            call_digest=call.digest,
            bundle_digest=decision.bundle_digest,
            role=decision.approval_role or ADMIN,
            requester=str(subject.workload),
            on_behalf_of=task.mandate.on_behalf_of,
            opened_by=task.mandate.opened_by,
            openers=tuple(each.mandate.opened_by for each in task.above),
            target=call.target,
            action=call.action,
            sentence=decision.sentence(),
            preview=preview(call),
            asked_at=now,
            expires_at=min(now + self._expires, task.mandate.expires_at),
        )
        return self._keep(approval)

    def granted(self, *, task_id: str, call: Call, bundle_digest: str) -> Approval | None:
        """Return a usable yes to this exact call, if there is one."""
        now = self._clock()
        for approval in self._live.values():
            if (
                approval.state is ApprovalState.APPROVED
                and approval.task == task_id
                and approval.call_digest == call.digest
                and approval.bundle_digest == bundle_digest
                and approval.expires_at > now
            ):
                return approval
        return None

    def consume(self, approval_id: str) -> Approval:
        """Use an approval up; only one caller ever succeeds.

        Raises:
            ConflictError: it is not approved, used already, or expired.
        """
        approval = self._live.get(approval_id)
        if approval is None or approval.state is not ApprovalState.APPROVED:
            raise ConflictError(f"approval `{approval_id}` cannot be used (any more)")
        if approval.expires_at <= self._clock():
            raise ConflictError(f"approval `{approval_id}` has expired")
        return self._keep(replace(approval, state=ApprovalState.USED))

    async def approve(self, approval_id: str, person: Person, comment: str = "") -> Approval:
        """Say yes.

        Raises:
            NotFoundError: there is no such approval.
            ConflictError: it is decided or expired.
            NotEligibleError: the person does not hold the role, or is the one it is for.
        """
        return await self._decide(approval_id, person, ApprovalState.APPROVED, comment)

    async def deny(self, approval_id: str, person: Person, comment: str = "") -> Approval:
        """Say no.

        Raises:
            NotFoundError: there is no such approval.
            ConflictError: it is decided or expired.
            NotEligibleError: the person does not hold the role.
        """
        return await self._decide(approval_id, person, ApprovalState.DENIED, comment)

    def expire_due(self) -> Sequence[Approval]:
        """Expire what is past its time; staged, durable at the next barrier."""
        now = self._clock()
        due = [
            approval
            for approval in self._live.values()
            if approval.expires_at <= now and approval.id not in self._deciding
        ]
        return [self._keep(replace(each, state=ApprovalState.EXPIRED)) for each in due]

    def end_task(self, task_id: str) -> Sequence[Approval]:
        """Expire what a task that ended still has; staged, durable at the next barrier.

        One that is being decided expires once it was.
        """
        below = [each for each in self._live.values() if each.task == task_id]
        if any(each.id in self._deciding for each in below):
            self._ended.add(task_id)
        return [
            self._keep(replace(each, state=ApprovalState.EXPIRED))
            for each in below
            if each.id not in self._deciding
        ]

    def expire_ended(self, is_open: Callable[[str], bool]) -> Sequence[Approval]:
        """Expire the approvals of every task that is not open, after a start that followed a crash.

        Args:
            is_open: says whether a task is open.
        """
        ended = {each.task for each in self._live.values() if not is_open(each.task)}
        return [expired for task_id in sorted(ended) for expired in self.end_task(task_id)]

    async def get(self, approval_id: str) -> Approval:
        """Return one approval with its preview, which is empty where it was erased.

        Raises:
            NotFoundError: there is no such approval.
            ProofError: its preview is not the one that was sealed.
        """
        return await self._shown(await self._known(approval_id))

    async def _known(self, approval_id: str) -> Approval:
        found = self._live.get(approval_id) or await self._store.get(approval_id)
        if found is None:
            raise NotFoundError(f"there is no approval `{approval_id[:64]}`")
        return found

    async def list(
        self, *, state: ApprovalState | None = None, limit: int = 50, after: str | None = None
    ) -> Sequence[Approval]:
        """Return approvals with their previews, newest first."""
        self.expire_due()
        found = await self._store.list(state=state, limit=limit, after=after)
        return [await self._shown(approval) for approval in found]

    async def _shown(self, approval: Approval) -> Approval:
        """Return an approval with what the vault holds of it."""
        try:
            sealed = None if approval.asked is None else await self._open_preview(approval.asked)
        except NotFoundError:  # its record was lost with a group of writes
            sealed = None
        return replace(approval, preview="" if sealed is None else sealed.decode())

    async def _decide(
        self, approval_id: str, person: Person, state: ApprovalState, comment: str
    ) -> Approval:
        self.expire_due()
        approval = await self._known(approval_id)
        # No await between here and the claim: two people deciding at once cannot both succeed.
        approval = self._live.get(approval_id, approval)
        if approval.state is not ApprovalState.PENDING:
            raise ConflictError(f"approval `{approval_id}` is {approval.state.value} already")
        if approval_id in self._deciding:
            raise ConflictError(f"approval `{approval_id}` is being decided")
        self._require_eligible(person, approval, state)
        decided = replace(
            approval,
            state=state,
            decided_by=person.id,
            decided_at=self._clock(),
            comment=comment[:_MAX_COMMENT] or None,
        )
        # A person who goes away does not stop what they decided.
        deciding = asyncio.ensure_future(self._decided(decided))
        self._deciding[approval_id] = deciding
        deciding.add_done_callback(self._forget(approval_id))
        return await self._shown(await asyncio.shield(deciding))

    async def _decided(self, decided: Approval) -> Approval:
        """Make a decision durable, and only then let a call find it."""
        self._write(decided)
        await self._recorder.barrier()
        self._hold(decided)
        if decided.task in self._ended and decided.state in _LIVE:
            return self._keep(replace(decided, state=ApprovalState.EXPIRED))
        return decided

    def _forget(self, approval_id: str) -> Callable[[asyncio.Future[Approval]], None]:
        def done(deciding: asyncio.Future[Approval]) -> None:
            self._deciding.pop(approval_id, None)
            if not deciding.cancelled() and (error := deciding.exception()) is not None:
                log.warning("an approval could not be decided", reason=str(error))

        return done

    def _require_eligible(self, person: Person, approval: Approval, state: ApprovalState) -> None:
        if approval.role not in person.roles and ADMIN not in person.roles:
            raise NotEligibleError(
                f"`{person.id}` does not hold the role `{approval.role}`", approval.task
            )
        if state is not ApprovalState.APPROVED or self._self_approval:
            return
        # Who opened the task chose on whose behalf it runs: that is no second pair of eyes either.
        for whose, own in (
            ("on behalf of", approval.on_behalf_of),
            ("opened by", approval.opened_by),
            *(("delegated from one opened by", opener) for opener in approval.openers),
        ):
            if _same_person(person.id, own):
                raise NotEligibleError(
                    f"the task is {whose} `{person.id}`: somebody else has to approve its calls "
                    "(or set `self_approval` in remit.toml)",
                    approval.task,
                )

    def _keep(self, approval: Approval) -> Approval:
        kept = self._write(approval)
        self._hold(kept)
        return kept

    def _hold(self, approval: Approval) -> None:
        if approval.state in _LIVE:
            self._live[approval.id] = approval
            self._asked_in[approval.id] = self._recorder.epoch
        else:
            self._live.pop(approval.id, None)
            self._asked_in.pop(approval.id, None)

    def _write(self, approval: Approval) -> Approval:
        """Stage a state and its record; what the record seals is kept nowhere else."""
        record = self._recorder.stage(approval.record(), Context(task=approval.task))
        asked = record if approval.preview else approval.asked
        kept = replace(approval, preview="", asked=asked)
        self._store.put(kept if kept.state in _LIVE else replace(kept, call_digest=""))
        return kept


def _same_person(one: str, other: str) -> bool:
    """Return whether two spellings of an id are one person's; when in doubt, they are."""

    def plain(text: str) -> str:
        return unicodedata.normalize("NFKC", text).casefold().strip().removeprefix("user:")

    return plain(one) == plain(other)
