"""A lease store in memory and a target that mints names, for tests of what stands on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from remit.model.errors import BrokerError
from remit.model.lease import Credential, Lease, LeaseState

_OVER = {LeaseState.SETTLED, LeaseState.FAILED, LeaseState.IRREVOCABLE}


class MemoryLeases:
    """Implements ``credentials.port.LeaseStore`` without a disk."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def put(self, lease: Lease) -> None:
        """Keep a lease's present state."""
        self._leases[lease.id] = lease

    async def get(self, lease_id: str) -> Lease | None:
        """Return one lease."""
        return self._leases.get(lease_id)

    async def unsettled(self) -> Sequence[Lease]:
        """Return every lease that may still have a live credential, oldest first."""
        return [
            self._leases[key]
            for key in sorted(self._leases)
            if self._leases[key].state not in _OVER
        ]


class MemoryTarget:
    """A broker and its target in one: ``live`` holds the handles of the credentials it accepts.

    ``fail_issue`` and ``fail_revoke`` make it die before it does the thing; ``mint_then_fail``
    makes it die after it minted.
    """

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.fail_issue = False
        self.mint_then_fail = False
        self.fail_revoke = False

    @property
    def revocation(self) -> Literal["immediate", "at_expiry"]:
        """It takes back at once."""
        return "immediate"

    async def issue(self, lease: Lease) -> Credential:
        """Mint."""
        if self.fail_issue:
            raise BrokerError("the target is down")
        self.live.add(lease.handle)
        if self.mint_then_fail:
            raise BrokerError("the target died after minting")
        return Credential(headers=(("X-Secret", lease.handle),), secrets=(lease.handle,))

    async def revoke(self, lease: Lease) -> bool:
        """Take back."""
        if self.fail_revoke:
            raise BrokerError("the target is down")
        self.live.discard(lease.handle)
        return lease.handle not in self.live
