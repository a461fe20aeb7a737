"""Opens the drawer of sealed keys, and says how old they are."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from remit.app.metrics import Metrics
from remit.credentials.sealed_keys import SealedKeys
from remit.credentials.sealing import KEY_BYTES, KeySeal
from remit.evidence.keys import read_or_create
from remit.model.record import Recorder


def open_sealed_keys(state: Path, recorder: Recorder, clock: Callable[[], datetime]) -> SealedKeys:
    """Open the keys below a state folder, under a key file of their own.

    Raises:
        ConfigError: the key file or a sealed key cannot be used.
    """
    key = read_or_create(state / "keys" / "sealed.key", KEY_BYTES, secrets.token_bytes)
    return SealedKeys(folder=state / "sealed", seal=KeySeal(key), recorder=recorder, clock=clock)


def show_ages(metrics: Metrics, keys: SealedKeys, clock: Callable[[], datetime]) -> None:
    """Let Prometheus see how many keys stand, how old the oldest is, and how many are too old."""
    metrics.gauge("sealed_keys", "Long-lived keys that stand sealed.", lambda: len(keys.keys))
    metrics.gauge(
        "sealed_keys_aged",
        "Sealed keys that are older than their broker's max_age_days.",
        lambda: len(keys.aged(clock())),
    )
    metrics.gauge(
        "sealed_key_oldest_seconds",
        "Seconds since the last rotation of the sealed key that was rotated longest ago.",
        lambda: max((key.age(clock()) for key in keys.keys), default=timedelta(0)).total_seconds(),
    )
