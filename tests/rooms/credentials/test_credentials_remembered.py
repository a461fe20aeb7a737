from __future__ import annotations

from datetime import UTC, datetime, timedelta

from remit.credentials.remembered import Remembered

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def test_a_secret_is_remembered_for_an_hour_after_its_lease_is_over():
    held = Remembered()
    held.add("lease_1", ("s1", "s2"))
    held.ended("lease_1", NOW)
    assert held.all(NOW + timedelta(minutes=60)) == {"s1": "lease_1", "s2": "lease_1"}
    assert held.all(NOW + timedelta(minutes=61)) == {}


def test_what_is_in_use_is_never_forgotten_however_much_there_is():
    held = Remembered()
    held.add("open", ("in use",))
    for number in range(5_000):
        held.add(f"lease_{number}", [f"{number}-{part}" for part in range(5)])
        held.ended(f"lease_{number}", NOW)
    found = held.all(NOW)
    assert found["in use"] == "open"
    assert found["4999-0"] == "lease_4999", "the newest of what is over is kept"
    assert len(found) <= 20_000


def test_a_secret_that_two_leases_share_is_remembered_until_both_are_over():
    """As a sealed key is, which every lease of it is made of."""
    held = Remembered()
    held.add("task", ("key",))
    held.add("call", ("key",))
    held.ended("call", NOW)
    later = NOW + timedelta(hours=2)
    assert held.all(later) == {"key": "task"}
    held.ended("task", later)
    assert held.all(later + timedelta(hours=2)) == {}
