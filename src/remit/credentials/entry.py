"""One open lease, and what only this run knows of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime

from remit.credentials.port import Order
from remit.credentials.putting_off import PutOff
from remit.model.lease import Credential, FailedRevocation, Lease, LeaseState


@dataclass(slots=True, kw_only=True)
class Entry:
    """An open lease in memory.

    ``order`` is None for a lease of an earlier run: nobody holds its credential. ``minting_since``
    is set while a mint may be on its way to the target, answered or not. ``basis`` is whatever the
    caller wants to find again when it asks why the lease may live. ``failed`` is the last failure to
    revoke it, until the target answers. ``epoch`` is the recorder's when the lease was reserved.
    """

    lease: Lease
    order: Order | None = None
    basis: object | None = None
    credential: Credential | None = field(default=None, repr=False)
    minting: asyncio.Lock = field(default_factory=asyncio.Lock)
    minting_since: datetime | None = None
    put_off: PutOff = field(default_factory=PutOff)
    failed: FailedRevocation | None = None
    epoch: int = 0

    @property
    def usable(self) -> bool:
        """Whether the lease has not begun to end."""
        return self.lease.state in {LeaseState.RESERVED, LeaseState.ISSUED}

    def page(self) -> Lease:
        """Return the lease with what went wrong with its end: for its page, and for people."""
        failed = self.failed
        if failed is not None:
            over = self.lease.state in {LeaseState.SETTLED, LeaseState.FAILED}
            failed = replace(failed, again_at=None if over else self.put_off.not_before)
        return replace(self.lease, revoke_failed=failed)

    def revocation_failed(self, reason: str, now: datetime) -> FailedRevocation:
        """Put the next attempt off, and return what there is to say of this one."""
        self.put_off.failed(now)
        before = 0 if self.failed is None else self.failed.attempts
        return FailedRevocation(at=now, attempts=before + 1, reason=reason)
