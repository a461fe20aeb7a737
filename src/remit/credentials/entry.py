"""One open lease, and what only this run knows of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from remit.credentials.port import Order
from remit.credentials.putting_off import PutOff
from remit.model.lease import Credential, Lease


@dataclass(slots=True, kw_only=True)
class Entry:
    """An open lease in memory.

    ``order`` is None for a lease of an earlier run: nobody holds its credential. ``minting_since``
    is set while a mint may be on its way to the target, answered or not. ``basis`` is whatever the
    caller wants to find again when it asks why the lease may live.
    """

    lease: Lease
    order: Order | None = None
    basis: object | None = None
    credential: Credential | None = field(default=None, repr=False)
    minting: asyncio.Lock = field(default_factory=asyncio.Lock)
    minting_since: datetime | None = None
    put_off: PutOff = field(default_factory=PutOff)
