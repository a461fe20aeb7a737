"""A bounded memory of documents that held, by their SHA-256.

An uncached check costs about 150 µs, more than a policy decision. An entry answers until it
expires, until the keys it was checked under were replaced (by object, not by value). The least recently used entry leaves first.
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
    """Values by digest, with when they expire and the keys they were checked under."""

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

    def peek(self, digest: str) -> T | None:
        """Return what was kept under ``digest``, whether or not it still holds."""
        entry = self._entries.get(digest)
        return None if entry is None else entry[0]

    def put(self, digest: str, value: T, *, expires_at: datetime, keys: object) -> None:
        """Keep a value that was checked under ``keys`` until ``expires_at``."""
        self._entries[digest] = (value, expires_at, keys)
        self._entries.move_to_end(digest)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)
