"""The secrets that were minted, so that they can be looked for where they must not be.

In memory alone: while their lease is open, and for an hour after, when a late answer may still
hold one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

_KEPT = timedelta(hours=1)
_MOST = 20_000
_FEWER = 18_000


class Remembered:
    """Secrets by lease. Nothing prints it."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[str, ...]] = {}
        self._ended: dict[str, datetime] = {}
        self._found: dict[str, str] | None = None
        self._count = 0

    def add(self, lease_id: str, secrets: Iterable[str]) -> None:
        """Remember what a lease's credential is made of.

        Where there are many, those of leases that ended are forgotten sooner, the oldest first.
        """
        self._of[lease_id] = kept = tuple(secrets)
        self._count += len(kept)
        if self._found is not None:
            self._found.update(dict.fromkeys(kept, lease_id))
        if self._count > _MOST:
            self._forget_down_to(_FEWER)

    def ended(self, lease_id: str, now: datetime) -> None:
        """Begin to forget a lease."""
        if lease_id in self._of:
            self._ended[lease_id] = now

    def all(self, now: datetime) -> Mapping[str, str]:
        """Return every secret with its lease's id; of several leases that have it, an open one's."""
        while self._ended and next(iter(self._ended.values())) + _KEPT < now:  # the oldest is first
            self._forget(next(iter(self._ended)))
        if self._found is None:
            over = (each for each in self._of if each in self._ended)
            alive = (each for each in self._of if each not in self._ended)
            self._found = {
                s: each for leases in (over, alive) for each in leases for s in self._of[each]
            }
        return self._found

    def _forget_down_to(self, most: int) -> None:
        for lease_id in list(self._ended):
            if self._count <= most:
                return
            self._forget(lease_id)

    def _forget(self, lease_id: str) -> None:
        del self._ended[lease_id]
        self._count -= len(self._of.pop(lease_id))
        self._found = None
