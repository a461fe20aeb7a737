"""The lease book: no credential without a row written first, none left when its task is over.

A crash between any two lines leaves a row in a state that :meth:`Leases.sweep` ends: ``reserved``
and ``issued`` rows of a call that is not in flight, and ``settling`` rows, are revoked again, by
the handle that was chosen before the mint.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog

from remit.credentials.port import Binding, LeaseStore
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.errors import BrokerError, ConfigError, NotFoundError
from remit.model.ids import new_id
from remit.model.lease import Credential, Lease, LeaseScope, LeaseState
from remit.model.record import Context, Recorder
from remit.model.task import Task

log = structlog.get_logger()

ATTEMPTS = 8
"""How often a revocation is tried before the lease is called irrevocable and raised."""

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0


class Leases:
    """Reserves, issues and settles; upstreams without a binding need no credential."""

    def __init__(
        self,
        *,
        bindings: Mapping[str, Binding],
        store: LeaseStore,
        recorder: Recorder,
        clock: Callable[[], datetime],
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        revoke_seconds: float = 10.0,
    ) -> None:
        """Open the book; ``revoke_seconds`` is how long a target may take to revoke, each time."""
        self._bindings = bindings
        self._brokers = {binding.name: binding.broker for binding in bindings.values()}
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._randomness = randomness
        self._revoke_seconds = revoke_seconds
        self._live: dict[str, Lease] = {}
        self._held: dict[str, Credential] = {}
        self._minting: dict[str, asyncio.Lock] = {}
        self._attempts: dict[str, tuple[int, datetime]] = {}

    async def load(self) -> None:
        """Take up what the last run left; call :meth:`sweep` next.

        Raises:
            ConfigError: a lease is open at a broker that the configuration no longer names.
        """
        for lease in await self._store.unsettled():
            if lease.broker not in self._brokers:
                raise ConfigError(
                    f"lease `{lease.id}` is open at broker `{lease.broker}`, which is no longer "
                    "configured: configure it again so that its credential can be revoked"
                )
            self._live[lease.id] = lease

    def reserve(self, task: Task, call: Call, decision: Decision) -> Lease | None:
        """Write down a lease before anything is minted; None where no credential is needed.

        A lease for the whole task is found again by the task's later calls. Durable at the
        caller's next barrier.
        """
        binding = self._bindings.get(call.upstream)
        if binding is None:
            return None
        if binding.scope is LeaseScope.TASK:
            for held in self._live.values():
                if held.task == task.id and held.target == call.upstream:
                    return held
        now = self._clock()
        lease = Lease(
            id=new_id("lease", now, self._randomness(10)),
            task=task.id,
            call=call.id if binding.scope is LeaseScope.CALL else None,
            broker=binding.name,
            target=call.upstream,
            scope=binding.scope,
            state=LeaseState.RESERVED,
            handle=f"remit-{self._randomness(10).hex()}",
            expires_at=min(now + timedelta(seconds=binding.seconds), task.mandate.expires_at),
            reserved_at=now,
            revocation=binding.broker.revocation,
            detail=decision.id,
        )
        return self._moved(lease)

    async def issue(self, lease: Lease) -> Credential:
        """Mint the credential of a reserved lease, or return the one held for the task.

        Calls that share a lease wait for the first one's mint.

        Raises:
            BrokerError: the target did not mint; what it may have minted is revoked.
            NotFoundError: the lease is settled already.
        """
        async with self._minting.setdefault(lease.id, asyncio.Lock()):
            return await self._issue(lease)

    async def _issue(self, lease: Lease) -> Credential:
        present = self._live.get(lease.id)
        if present is None or present.state not in {LeaseState.RESERVED, LeaseState.ISSUED}:
            raise NotFoundError(f"lease `{lease.id}` is not open any more")
        if lease.id in self._held:
            return self._held[lease.id]
        credential = await self._brokers[lease.broker].issue(present)
        if self._live.get(lease.id) is not present:
            # The task ended while the target was minting: nobody may use what it minted.
            await self._revoke(present)
            raise NotFoundError(f"lease `{lease.id}` was settled while it was being issued")
        self._held[lease.id] = credential
        self._moved(present.moved(LeaseState.ISSUED))
        return credential

    async def settle(self, lease: Lease) -> None:
        """Revoke, and confirm. A target that fails is asked again by the sweep.

        Raises:
            EvidenceError: that it is being revoked could not be made durable; it was all the same.
        """
        present = self._live.get(lease.id)
        if present is None:
            return
        self._held.pop(lease.id, None)
        settling = (
            present
            if present.state is LeaseState.SETTLING
            else self._moved(present.moved(LeaseState.SETTLING))
        )
        try:
            await self._recorder.barrier()
        finally:
            # A log that is down is no reason to let a credential live; the row of its
            # reservation is durable, so a start revokes it once more.
            await self._revoke(settling)

    async def settle_task(self, task_id: str) -> None:
        """Settle every lease below a task."""
        below = [lease for lease in self._live.values() if lease.task == task_id]
        await self._settle_all(below)

    async def sweep(self, running: Callable[[str], bool]) -> int:
        """Settle what has no right to live; return how many leases are still unsettled.

        Args:
            running: says whether a task is open; a lease of any other task is settled.
        """
        now = self._clock()
        due = []
        for lease in list(self._live.values()):
            attempts, not_before = self._attempts.get(lease.id, (0, now))
            stale = (
                lease.state is LeaseState.SETTLING
                or lease.expires_at <= now
                or not running(lease.task)
                or (
                    attempts == 0 and lease.id not in self._held and lease.reserved_at < now - _MINT
                )
            )
            if stale and not_before <= now:
                due.append(lease)
        await self._settle_all(due)
        return len(self._live)

    def open_leases(self) -> tuple[Lease, ...]:
        """Return every lease that may still have a live credential."""
        return tuple(self._live.values())

    async def _settle_all(self, leases: Sequence[Lease]) -> None:
        """Settle every one, whatever becomes of the others; then raise the first failure."""
        ended = await asyncio.gather(*map(self.settle, leases), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _revoke(self, lease: Lease) -> None:
        try:
            async with asyncio.timeout(self._revoke_seconds):
                confirmed = await self._brokers[lease.broker].revoke(lease)
        except BrokerError as error:
            self._put_off(lease, str(error))
            return
        except TimeoutError:
            self._put_off(lease, f"the target took longer than {self._revoke_seconds:g} seconds")
            return
        except Exception as error:  # noqa: BLE001 - the sweep asks again, whatever it was
            self._put_off(lease, f"the broker broke: {type(error).__name__}")
            return
        if lease.id not in self._live:
            return  # settled meanwhile by whoever else asked
        self._attempts.pop(lease.id, None)
        self._moved(lease.moved(LeaseState.SETTLED, confirmed=confirmed))
        self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        self._live.pop(lease.id, None)
        self._minting.pop(lease.id, None)

    def _put_off(self, lease: Lease, reason: str) -> None:
        attempts = self._attempts.get(lease.id, (0, self._clock()))[0] + 1
        wait = min(_FIRST_WAIT_SECONDS * 2 ** (attempts - 1), _LONGEST_WAIT_SECONDS)
        self._attempts[lease.id] = (attempts, self._clock() + timedelta(seconds=wait))
        if attempts >= ATTEMPTS:
            log.error("a credential will not die", lease=lease.id, target=lease.target)
            self._moved(lease.moved(LeaseState.IRREVOCABLE, detail=reason))
            self._attempts.pop(lease.id, None)
            self._forget(lease)
            return
        log.warning("a revocation failed", lease=lease.id, target=lease.target, attempts=attempts)

    def _moved(self, lease: Lease) -> Lease:
        self._live[lease.id] = lease
        self._store.put(lease)
        self._recorder.stage(lease.record(), Context(task=lease.task, call=lease.call))
        return lease


_MINT = timedelta(seconds=60)
"""How long a reserved lease may wait for its mint before the sweep takes it for abandoned."""
