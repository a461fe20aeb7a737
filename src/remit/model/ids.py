"""Identifiers: sortable by time, unguessable, and telling what they name."""

from __future__ import annotations

from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BYTES = 10
_LENGTH = 26


def new_id(prefix: str, now: datetime, randomness: bytes) -> str:
    """Return ``prefix_`` and 26 characters of Crockford base 32: 48 bits of milliseconds, 80 random.

    Args:
        prefix: what the id names (``task``, ``call``, …).
        now: the time that sorts it, aware.
        randomness: ten bytes from a cryptographic source.

    Raises:
        ValueError: ``randomness`` is not ten bytes.
    """
    if len(randomness) != _RANDOM_BYTES:
        raise ValueError("an id takes ten random bytes")
    number = (int(now.timestamp() * 1000) << 80) | int.from_bytes(randomness)
    digits = [_ALPHABET[(number >> (5 * place)) & 31] for place in range(_LENGTH)]
    return f"{prefix}_{''.join(reversed(digits))}"
