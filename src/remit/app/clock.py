"""The authority's clock: the machine's, but never told earlier than before, nor slower than time.

A clock that is set back would lengthen every task, approval and credential that is open. So this
one goes on from the latest time it told, by the monotonic clock, until the machine's has caught
up. A clock that is set forward is followed at once: what expires too early is asked for again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

TOLERATED = timedelta(seconds=60)
"""How far the machine's clock may fall behind before that is told."""


def machine_time() -> datetime:
    """Return the machine's time, aware."""
    return datetime.now(UTC)


class SteadyClock:
    """Returns the time when called; it never goes back while the process lives."""

    def __init__(
        self,
        machine: Callable[[], datetime] = machine_time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machine = machine
        self._monotonic = monotonic
        self._latest = (machine(), monotonic())

    def __call__(self) -> datetime:
        """Return the time, aware UTC."""
        told, at = self._latest
        passed = self._monotonic()
        least = told + timedelta(seconds=passed - at)
        now = self._machine()
        if now <= least:
            return least
        self._latest = (now, passed)
        return now

    def health(self) -> str | None:
        """Return None, or by how much the machine's clock was set back."""
        behind = self() - self._machine()
        if behind <= TOLERATED:
            return None
        return (
            f"the machine's clock went back by {behind.total_seconds():.0f} seconds: remit goes on "
            "from the latest time it saw; set the clock right, then restart remit"
        )
