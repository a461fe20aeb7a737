"""What the credentials room asks of a target that mints, and of the book that keeps leases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from remit.model.lease import Credential, Lease, LeaseScope


class Broker(Protocol):
    """Mints and revokes at one target.

    ``revocation`` says honestly whether the target can take a credential back (``immediate``) or
    only let it run out (``at_expiry``).
    """

    @property
    def revocation(self) -> Literal["immediate", "at_expiry"]:
        """Whether the target can revoke."""
        ...

    async def issue(self, lease: Lease) -> Credential:
        """Mint a credential that can be found again by ``lease.handle`` alone.

        Raises:
            BrokerError: the target failed or refused. Something may have been minted all the same.
        """
        ...

    async def revoke(self, lease: Lease) -> bool:
        """Take back what ``lease.handle`` names; absent is not an error.

        Returns whether the target, asked afterwards, confirmed that nothing is left.

        Raises:
            BrokerError: the target failed; the sweep will ask again.
        """
        ...


class LeaseStore(Protocol):
    """The lease book's pages."""

    def put(self, lease: Lease) -> None:
        """Stage a lease's present state; durable at the next barrier."""
        ...

    async def get(self, lease_id: str) -> Lease | None:
        """Return one lease."""
        ...

    async def unsettled(self) -> Sequence[Lease]:
        """Return every lease that may still have a live credential, oldest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """How one upstream gets its credentials: from which broker, for how much, for how long."""

    name: str
    broker: Broker
    scope: LeaseScope = LeaseScope.CALL
    seconds: int = 300
