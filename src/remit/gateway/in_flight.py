"""Which exchanges use which lease's credential: those that are under way when it ends are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from remit.model.errors import UpstreamError
from remit.model.lease import Credential


class TakenBackError(UpstreamError):
    """The credential was taken back while the exchange was under way."""


@dataclass(slots=True, eq=False)
class _Using:
    limit: asyncio.Timeout
    cut: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)


class InFlight:
    """The exchanges that are under way with a minted credential, by lease."""

    def __init__(self) -> None:
        self._by_lease: dict[str, set[_Using]] = {}

    @asynccontextmanager
    async def limited(self, credential: Credential | None, seconds: float) -> AsyncIterator[None]:
        """Bound what is done with a credential by ``seconds``, and by the life of its lease.

        Raises:
            TimeoutError: it took longer.
            TakenBackError: the lease ended first.
        """
        using = _Using(asyncio.timeout(seconds))
        lease = credential.lease if credential is not None else ""
        if lease:
            self._by_lease.setdefault(lease, set()).add(using)
        try:
            async with using.limit:
                yield
        except TimeoutError as error:
            if using.cut:
                raise TakenBackError("its credential was taken back while it was used") from error
            raise
        finally:
            using.over.set()
            if lease:
                self._by_lease[lease].discard(using)
                if not self._by_lease[lease]:
                    del self._by_lease[lease]

    async def let_go(self, lease: str) -> None:
        """Cut every exchange that uses a lease's credential, and wait until each has stopped."""
        found = list(self._by_lease.get(lease, ()))
        for using in found:
            if not using.limit.expired():
                using.cut = True
                using.limit.reschedule(asyncio.get_running_loop().time())
        for using in found:
            await using.over.wait()
