"""When a revocation that failed is tried again: soon at first, then ever later, never never."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

ATTEMPTS = 8
"""How often a revocation is tried before the lease is called irrevocable and raised."""

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_HOPELESS_WAIT_SECONDS = 600.0


@dataclass(slots=True)
class PutOff:
    """How often it failed, and the time before which it is not tried again."""

    attempts: int = 0
    not_before: datetime | None = None

    @property
    def hopeless(self) -> bool:
        """Whether it failed so often that people have to be told."""
        return self.attempts >= ATTEMPTS

    def due(self, now: datetime) -> bool:
        """Whether it is time to try."""
        return self.not_before is None or self.not_before <= now

    def until(self, time: datetime) -> None:
        """Wait for a known time, which is no failure."""
        self.not_before = time

    def failed(self, now: datetime) -> None:
        """Count a failure and wait twice as long as last time."""
        self.attempts += 1
        wait = min(_FIRST_WAIT_SECONDS * 2 ** min(self.attempts - 1, 10), _LONGEST_WAIT_SECONDS)
        if self.hopeless:
            wait = _HOPELESS_WAIT_SECONDS
        self.not_before = now + timedelta(seconds=wait)
