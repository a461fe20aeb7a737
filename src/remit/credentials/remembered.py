"""The secrets that were minted, so that they can be looked for where they must not be.

In memory alone: while their lease is open, and for an hour after, when a late answer may still
hold one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

_KEPT = timedelta(hours=1)
_MOST = 20_000


class Remembered:
    """Secrets by lease. Nothing prints it."""

    def __init__(self) -> None:
        self._leases: dict[str, str] = {}
        self._ended: dict[str, datetime] = {}

    def add(self, lease_id: str, secrets: Iterable[str]) -> None:
        """Remember what a lease's credential is made of."""
        for secret in secrets:
            self._leases[secret] = lease_id
        while len(self._leases) > _MOST:
            del self._leases[next(iter(self._leases))]

    def ended(self, lease_id: str, now: datetime) -> None:
        """Begin to forget a lease."""
        self._ended[lease_id] = now

    def all(self, now: datetime) -> Mapping[str, str]:
        """Return every secret with its lease's id."""
        over = {lease for lease, ended_at in self._ended.items() if ended_at + _KEPT < now}
        if over:
            self._leases = {s: lease for s, lease in self._leases.items() if lease not in over}
            for lease in over:
                del self._ended[lease]
        return self._leases
