"""A lease store in memory and a target that mints names, for tests of what stands on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from remit.credentials.port import Census, Order, Revocation, Traits
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease, LeaseState

_OVER = {LeaseState.SETTLED, LeaseState.FAILED}


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
        return [each for each in self._all() if each.state not in _OVER]

    async def unexpired(self, now: datetime) -> Sequence[Lease]:
        """Return every lease, settled ones too, whose credential could be alive by its expiry."""
        return [each for each in self._all() if each.expires_at > now]

    def _all(self) -> list[Lease]:
        return [self._leases[key] for key in sorted(self._leases)]


class MemoryTarget:
    """A broker and its target in one: ``live`` holds the handles of the credentials it accepts.

    ``fail_issue`` and ``fail_revoke`` make it die before it does the thing; ``mint_then_fail``
    makes it die after it minted; ``refuse`` makes it answer that it will not mint. ``seen`` holds
    every order it was given.
    """

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.seen: list[Order] = []
        self.fail_issue = False
        self.mint_then_fail = False
        self.fail_revoke = False
        self.refuse = False

    @property
    def traits(self) -> Traits:
        """It takes back at once, and can be asked."""
        return Traits(revocation="immediate", confirms=True, lists=True)

    def check(self, grant: Mapping[str, Any]) -> None:
        """It knows one key, ``rows``."""
        if unknown := sorted(grant.keys() - {"rows"}):
            raise ConfigError(f"`{unknown[0]}` is no grant of this target; `rows` is")

    async def issue(self, order: Order) -> Credential:
        """Mint."""
        self.seen.append(order)
        if self.refuse:
            raise NotMintedError("the target will not mint this")
        if self.fail_issue:
            raise BrokerError("the target is down")
        self.live.add(order.lease.handle)
        if self.mint_then_fail:
            raise BrokerError("the target died after minting")
        secret = f"secret-of-{order.lease.handle}"
        return Credential(values={"token": secret}, secrets=(secret,))

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Take back."""
        del keep
        if self.fail_revoke:
            raise BrokerError("the target is down")
        self.live.discard(lease.handle)
        return Revocation(confirmed=lease.handle not in self.live)

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Say what is alive."""
        del leases
        if self.fail_revoke:
            raise BrokerError("the target is down")
        return Census(alive=frozenset(self.live), complete=True)

    def accepts(self, values: Mapping[str, str]) -> bool:
        """Whether a credential lets its holder in."""
        return values["token"].removeprefix("secret-of-") in self.live

    async def close(self) -> None:
        """Nothing is open."""
