"""The lease book: no credential without a row written first, none left when its task is over.

What a crash leaves between any two lines: a ``reserved`` row, whose mint may still be on its way
to the target, is revoked at the next start, and once more after the quarantine, when a late mint
must have landed; an ``issued`` row is revoked, for nobody holds its credential any more; a
``settling`` row is revoked again. Only then is a lease called settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from remit.credentials.entry import Entry
from remit.credentials.holders import Holders, LetGo
from remit.credentials.minting import mint
from remit.credentials.port import Binding, Broker, LeaseStore, Order, Revocation
from remit.credentials.putting_off import PutOff
from remit.credentials.remembered import Remembered
from remit.credentials.reserving import draw_up
from remit.credentials.revoking import revocation
from remit.credentials.sealing import Seal
from remit.model.call import Call
from remit.model.contact import Contacts
from remit.model.decision import Decision
from remit.model.errors import BrokerError, ConfigError, EvidenceError, NotFoundError
from remit.model.lease import Credential, FailedRevocation, Lease, LeaseScope, LeaseState
from remit.model.record import Context, Recorder, Step
from remit.model.task import Task

log = structlog.get_logger()


class Leases:
    """Reserves, issues and settles; upstreams without a binding need no credential."""

    def __init__(
        self,
        *,
        bindings: Mapping[str, Binding],
        store: LeaseStore,
        recorder: Recorder,
        clock: Callable[[], datetime],
        seal: Seal,
        brokers: Mapping[str, Broker] | None = None,
        installation: str = "remit",
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        revoke_seconds: float = 10.0,
        quarantine_seconds: float = 30.0,
        margin_seconds: float = 15.0,
    ) -> None:
        """Open the book.

        Args:
            bindings: by upstream, how it gets its credentials.
            store: the book's pages.
            recorder: takes a record for each move of a lease.
            clock: the time, aware UTC.
            seal: seals what a revocation needs and nobody may read.
            brokers: by name, those that no upstream is bound to as well: they may have leases left.
            installation: the prefix of every handle.
            randomness: where names come from.
            revoke_seconds: how long a target may take to revoke, each time.
            quarantine_seconds: how long after its beginning an unanswered mint may still land.
            margin_seconds: a task's lease with less life than this is not used for another call.
        """
        self._bindings = bindings
        self._brokers = dict(brokers or {}) | {b.name: b.broker for b in bindings.values()}
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._seal = seal
        self._installation = installation
        self._randomness = randomness
        self._revoke_seconds = revoke_seconds
        self._quarantine = timedelta(seconds=quarantine_seconds)
        self._margin = timedelta(seconds=margin_seconds)
        self._open: dict[str, Entry] = {}
        self._remembered = Remembered()
        self._holders = Holders()
        self.contacts = Contacts(clock)

    def held_by(self, let_go: LetGo) -> None:
        """Have ``let_go`` end every use of a lease's credential before the lease is over."""
        self._holders.add(let_go)

    async def load(self) -> None:
        """Take up what the last run left; call :meth:`sweep` next.

        Raises:
            ConfigError: a lease is open at a broker that the configuration no longer names.
        """
        now = self._clock()
        for lease in await self._store.unsettled():
            if lease.broker not in self._brokers:
                raise ConfigError(
                    f"lease `{lease.id}` is open at broker `{lease.broker}`, which is no longer "
                    "configured: configure it again so that its credential can be revoked"
                )
            late = now if lease.issued_at is None else None
            failed = lease.revoke_failed
            self._open[lease.id] = Entry(lease=lease, minting_since=late, failed=failed)

    def reserve(
        self,
        task: Task,
        call: Call,
        decision: Decision,
        *,
        not_after: datetime | None = None,
        basis: object | None = None,
    ) -> Lease | None:
        """Write down a lease before anything is minted; None where no credential is needed.

        A lease for the whole task is found again by the task's later calls, while it has life
        left. Durable at the next barrier, which :meth:`issue` waits for. ``not_after`` is the
        earliest of whatever else ends: an approval, the time left to the task.

        Raises:
            InputError: the grant depends on an argument that the call does not have.
        """
        binding = self._bindings.get(call.upstream)
        if binding is None:
            return None
        now = self._clock()
        if binding.scope is LeaseScope.TASK:
            held = self._reusable(task.id, call.upstream, now)
            if held is not None:
                held.basis = basis
                return self._used(held, call)
        order = draw_up(
            binding,
            task,
            call,
            decision,
            now=now,
            name=f"{self._installation}-{self._randomness(10).hex()}",
            randomness=self._randomness(10),
            not_after=not_after,
        )
        lease = order.lease
        entry = Entry(lease=lease, order=order, basis=basis, epoch=self._recorder.epoch)
        self._moved(entry, lease)
        self._open[lease.id] = entry
        return lease

    def _reusable(self, task_id: str, target: str, now: datetime) -> Entry | None:
        for entry in self._open.values():
            lease = entry.lease
            if (
                (lease.task, lease.target, lease.scope) == (task_id, target, LeaseScope.TASK)
                and entry.usable
                and entry.order is not None
                and entry.epoch == self._recorder.epoch  # else its records may be lost
                and lease.expires_at - self._margin > now
            ):
                return entry
        return None

    def _used(self, entry: Entry, call: Call) -> Lease:
        lease = replace(entry.lease, uses=entry.lease.uses + 1)
        entry.lease = lease
        self._store.put(entry.page())
        step = Step(kind="lease.used", body={"lease": lease.id, "handle": lease.handle})
        self._recorder.stage(step, Context(task=lease.task, call=call.id))
        return lease

    async def issue(
        self, lease: Lease, *, durable: Callable[[], Awaitable[None]] | None = None
    ) -> Credential:
        """Mint the credential of a reserved lease, or return the one held for the task.

        Calls that share a lease wait for the first one's mint. ``durable`` is the caller's barrier,
        the recorder's where None: nothing is minted before it returned.

        Raises:
            BrokerError: the target did not mint; what it may have minted is revoked.
            EvidenceError: the lease could not be made durable; nothing was minted.
            NotFoundError: the lease is settled already.
        """
        entry = self._open.get(lease.id)
        if entry is None:
            raise NotFoundError(f"lease `{lease.id}` is not open any more")
        async with entry.minting:
            if not entry.usable or entry.order is None:
                raise NotFoundError(f"lease `{lease.id}` is not open any more")
            if entry.credential is not None:
                return entry.credential
            if entry.minting_since is not None:
                raise BrokerError(f"`{lease.target}` did not answer when it was asked to mint")
            return await self._issue(entry, entry.order, durable or self._recorder.barrier)

    def require_usable(self, lease: Lease) -> None:
        """Hold a lease against what may have become of it since it was issued.

        Raises:
            BrokerError: its credential was taken back meanwhile.
        """
        entry = self._open.get(lease.id)
        if entry is None or entry.lease.state is not LeaseState.ISSUED:
            raise BrokerError(f"the credential for `{lease.target}` was taken back before its use")

    async def _issue(
        self, entry: Entry, order: Order, barrier: Callable[[], Awaitable[None]]
    ) -> Credential:
        broker = self._brokers[entry.lease.broker]
        asking = mint(entry, order, broker, barrier, self._clock)
        credential = await self.contacts.watch(entry.lease.broker, asking)
        self._remembered.add(entry.lease.id, credential.secrets)
        now, lease = self._clock(), entry.lease
        expires_at = min(lease.expires_at, credential.expires_at or lease.expires_at)
        if lease.revocation == "at_expiry" and credential.expires_at is not None:
            expires_at = credential.expires_at  # the truth, where the target gives no less
        sealed = self._seal.close(credential.keep, lease.id) if credential.keep else None
        answered = replace(
            lease, memo=credential.memo, sealed=sealed, issued_at=now, expires_at=expires_at
        )
        if not entry.usable or lease.id not in self._open:
            # The task ended while the target was minting: nobody may use what it minted.
            self._open[lease.id] = entry
            await self._revoke(entry, answered.moved(LeaseState.SETTLING, confirmed=None))
            raise NotFoundError(f"lease `{lease.id}` was settled while it was being issued")
        entry.credential = credential
        self._moved(entry, answered.moved(LeaseState.ISSUED))
        return credential

    async def settle(self, lease: Lease) -> None:
        """Revoke, and confirm; durable on return. A target that fails is asked again by the sweep.

        The target does not wait for the disk: the row from before the mint is durable, so a start
        after a crash revokes once more, whatever became of this one.

        Raises:
            EvidenceError: how it went could not be made durable; it was revoked all the same.
        """
        entry = self._open.get(lease.id)
        if entry is None:
            return
        entry.credential = None
        usable = entry.usable
        await self._revoke(entry, entry.lease.moved(LeaseState.SETTLING) if usable else None)
        await self._recorder.barrier()

    async def settle_task(self, task_id: str) -> None:
        """Settle every lease below a task."""
        await self._settle_all([e for e in self._open.values() if e.lease.task == task_id])

    async def settle_these(self, lease_ids: Collection[str]) -> None:
        """Settle these leases, where they are open."""
        await self._settle_all([self._open[each] for each in lease_ids if each in self._open])

    def secrets(self) -> Mapping[str, str]:
        """Return every secret minted in this run with its lease, until an hour after its end.

        For the leak guard alone: never to be shown, logged or recorded.
        """
        return self._remembered.all(self._clock())

    async def revoke(self, lease_id: str, by: str) -> Lease:
        """Settle one lease on a person's word; return it as it then stands.

        Raises:
            NotFoundError: no lease of that name is open.
        """
        entry = self._open.get(lease_id)
        if entry is None:
            raise NotFoundError(f"lease `{lease_id}` is not open: see `remit lease list`")
        step = Step(kind="lease.revoke_asked", body={"lease": lease_id, "by": by})
        entry.put_off = PutOff()
        try:
            self._recorder.stage(step, Context(task=entry.lease.task, call=entry.lease.call))
        finally:
            await self.settle(entry.lease)
        return entry.page()

    async def sweep(self, running: Callable[[str], bool]) -> int:
        """Settle what has no right to live; return how many leases are still open.

        Args:
            running: says whether a task is open; a lease of any other task is settled.
        """
        now = self._clock()
        due = [
            e for e in self._open.values() if self._stale(e, running, now) and e.put_off.due(now)
        ]
        await self._settle_all(due)
        return len(self._open)

    def _stale(self, entry: Entry, running: Callable[[str], bool], now: datetime) -> bool:
        lease = entry.lease
        if not entry.usable or entry.order is None or not running(lease.task):
            return True
        late = entry.minting_since is not None and entry.minting_since + self._quarantine < now
        return lease.expires_at <= now or late

    def open_leases(self) -> tuple[Lease, ...]:
        """Return every lease that may still have a live credential."""
        return tuple(entry.page() for entry in self._open.values())

    def irrevocable(self) -> int:
        """Return how many leases no target would take back, however often it was asked."""
        return sum(e.lease.state is LeaseState.IRREVOCABLE for e in self._open.values())

    def bases(self) -> tuple[tuple[Lease, object], ...]:
        """Return each usable lease with what :meth:`reserve` was given to find again."""
        return tuple(
            (entry.lease, entry.basis)
            for entry in self._open.values()
            if entry.basis is not None and entry.usable
        )

    @property
    def brokers(self) -> Mapping[str, Broker]:
        """Every configured broker by its name."""
        return self._brokers

    async def _settle_all(self, entries: Sequence[Entry]) -> None:
        """Settle every one, whatever becomes of the others; then raise the first failure."""
        ended = await asyncio.gather(
            *(self.settle(entry.lease) for entry in entries), return_exceptions=True
        )
        for error in ended:
            if error is not None:
                raise error

    async def _revoke(self, entry: Entry, moved: Lease | None = None) -> None:
        """Write ``moved`` down, and revoke, whether or not the journal takes it."""
        try:
            if moved is not None:
                self._moved(entry, moved)
        finally:
            await self._ask_back(entry)

    async def _ask_back(self, entry: Entry) -> None:
        """Ask the target while whoever holds the credential lets go: over when both are done."""
        lease, seconds = entry.lease, self._revoke_seconds
        letting_go = asyncio.ensure_future(self._holders.let_go(lease.id, seconds))
        try:
            broker = self._brokers[lease.broker]
            answer = await revocation(broker, lease, self._kept, seconds)
        finally:
            let_go = await letting_go
        self.contacts.noted(lease.broker, answer if isinstance(answer, str) else None)
        if isinstance(answer, str):
            self._failed(entry, answer)
        elif lease.id not in self._open or entry.lease is not lease:
            return  # it moved meanwhile: whoever moved it goes on from there
        elif not let_go:
            self._failed(entry, "what uses it has not ended yet")
        else:
            self._revoked(entry, answer)

    def _kept(self, lease: Lease) -> str | None:
        return None if lease.sealed is None else self._seal.open(lease.sealed, lease.id)

    def _revoked(self, entry: Entry, answer: Revocation) -> None:
        lease, now = entry.lease, self._clock()
        if answer.until is not None and answer.until > now:
            entry.put_off.until(answer.until)
            self._noted(entry, None)
            if lease.detail != answer.detail or lease.expires_at != answer.until:
                state = LeaseState.SETTLING if lease.issued_at else LeaseState.UNKNOWN
                moved = lease.moved(state, detail=answer.detail, expires_at=answer.until)
                self._moved(entry, moved)
            return
        landing = entry.minting_since
        if landing is not None and landing + self._quarantine > now:
            # Its mint was never answered, and may land after this revocation.
            entry.put_off.until(landing + self._quarantine)
            self._noted(entry, None)
            return
        over = LeaseState.SETTLED if lease.issued_at is not None else LeaseState.FAILED
        self._moved(
            entry, lease.moved(over, confirmed=answer.confirmed, detail=answer.detail, sealed=None)
        )
        self._remembered.ended(lease.id, now)
        del self._open[lease.id]

    def _failed(self, entry: Entry, reason: str) -> None:
        lease = entry.lease
        self._noted(entry, entry.revocation_failed(reason, self._clock()))
        words = {"lease": lease.id, "target": lease.target, "reason": reason}
        if not entry.put_off.hopeless or lease.id not in self._open:
            log.warning("a revocation failed", attempts=entry.put_off.attempts, **words)
        elif lease.state is not LeaseState.IRREVOCABLE:
            log.error("a credential will not die", **words)
            self._moved(entry, lease.moved(LeaseState.IRREVOCABLE, detail=reason))

    def _noted(self, entry: Entry, failed: FailedRevocation | None) -> None:
        """Have its page say how its end stands, for people: nothing waits until that is durable."""
        if entry.failed != failed:
            entry.failed = failed
            with contextlib.suppress(EvidenceError):
                self._store.put(entry.page())

    def _moved(self, entry: Entry, lease: Lease) -> Lease:
        entry.lease = lease
        self._store.put(entry.page())
        self._recorder.stage(lease.record(), Context(task=lease.task, call=lease.call))
        return lease
