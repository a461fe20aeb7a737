"""A bounded memory of documents that held, by their SHA-256.

An uncached check costs about 150 µs, more than a policy decision. An entry answers until it
expires, until the keys it was checked under were replaced (by object, not by value), or until it
is revoked. What is revoked stays refused until it would have expired anyway.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeVar

T = TypeVar("T")
CAPACITY = 10_000
"""Entries, of about 1 kB each."""


class VerifiedCache(Generic[T]):
    """Values by digest, the least recently used leave first."""

    def __init__(self, *, clock: Callable[[], datetime], capacity: int = CAPACITY) -> None:
        self._clock = clock
        self._capacity = capacity
        self._entries: OrderedDict[str, tuple[T, datetime, object]] = OrderedDict()

    def get(self, digest: str, keys: object) -> T | None:
        """Return what was kept under ``digest``, if it has not expired and ``keys`` still stand."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        value, expires_at, checked_under = entry
        if checked_under is not keys or expires_at <= self._clock():
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return value

    def put(self, digest: str, value: T, *, expires_at: datetime, keys: object) -> None:
        """Keep a value that was checked under ``keys`` until ``expires_at``."""
        self._entries[digest] = (value, expires_at, keys)
        self._entries.move_to_end(digest)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def drop(self, digest: str) -> None:
        """Forget one entry."""
        self._entries.pop(digest, None)

    def __len__(self) -> int:
        return len(self._entries)
