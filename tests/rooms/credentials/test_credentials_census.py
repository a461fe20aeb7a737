from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from lease_book import Book, task_of

from remit.credentials.census import survey, verify_none
from remit.credentials.port import Census, Finding, Revocation
from remit.model.errors import BrokerError
from remit.model.lease import Lease, LeaseState
from remit.testing.credentials import MemoryTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remit.credentials.census import Report


async def look(book: Book) -> Report:
    await book.recorder.barrier()
    return await verify_none(
        book.leases.brokers,
        book.pages,
        book.running.__contains__,
        book.clock(),
        ask_seconds=0.05,
    )


async def test_a_credential_of_a_task_that_runs_is_in_order(book: Book):
    await book.leases.issue(book.reserve(task_of()))
    report = await look(book)
    assert report.none_stands
    assert [(a.broker, a.alive, a.complete) for a in report.asked] == [("memory", 1, True)]


async def test_a_credential_whose_task_ended_is_named(book: Book):
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    book.running.clear()
    report = await look(book)
    (found,) = report.findings
    assert not report.none_stands
    assert (found.handle, found.lease, found.task) == (lease.handle, lease.id, lease.task)
    assert "its task has ended" in found.why


async def test_a_credential_that_nobody_wrote_down_is_named(book: Book):
    book.target.live.add("remit-00000000-stray")
    (found,) = (await look(book)).findings
    assert (found.handle, found.lease) == ("remit-00000000-stray", None)
    assert "no lease is written down" in found.why


async def test_a_settled_lease_whose_credential_still_works_is_named(book: Book):
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    await book.leases.settle(lease)
    assert (await look(book)).none_stands
    book.target.live.add(lease.handle)  # the target lied, or somebody brought it back
    (found,) = (await look(book)).findings
    assert found.lease == lease.id
    assert "its lease is settled" in found.why


async def test_what_will_not_die_stays_a_finding(book: Book):
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    book.target.fail_revoke = True
    await book.leases.settle(lease)
    report = await look(book)
    assert report.asked[0].trouble == "the target is down"
    (found,) = report.findings
    assert "did not answer" in found.why
    assert not report.none_stands


async def test_a_target_that_is_down_and_has_nothing_open_shows_nothing_either(book: Book):
    book.target.fail_revoke = True
    report = await look(book)
    assert report.findings == ()
    assert not report.none_stands


@pytest.mark.parametrize("how", ["hangs", "breaks"])
async def test_a_broker_that_hangs_or_breaks_does_not_hide_the_others(
    book: Book, monkeypatch: pytest.MonkeyPatch, how: str
):
    import asyncio  # noqa: PLC0415 - one test needs it

    async def census(_: Sequence[Lease]) -> Census:
        if how == "breaks":
            raise RuntimeError("with a secret in it")
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(book.target, "census", census)
    report = await look(book)
    (asked,) = report.asked
    assert asked.trouble is not None
    assert "secret" not in asked.trouble


async def test_what_a_target_cannot_be_asked_about_is_a_finding_once_its_task_ended(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    lease = book.reserve(task_of())
    await book.leases.issue(lease)

    async def census(leases: Sequence[Lease]) -> Census:
        open_ones = frozenset(each.handle for each in leases)
        return Census(alive=frozenset(), complete=False, unasked=open_ones)

    monkeypatch.setattr(book.target, "census", census)
    assert (await look(book)).none_stands
    book.running.clear()
    (found,) = (await look(book)).findings
    assert "cannot be asked" in found.why
    assert found.until == lease.expires_at
    assert lease.state is LeaseState.RESERVED


@pytest.mark.parametrize("complete", [True, False])
async def test_a_mint_that_was_never_answered_is_named_where_its_target_cannot_list(
    book: Book, monkeypatch: pytest.MonkeyPatch, *, complete: bool
):
    lease = book.reserve(task_of())
    await book.recorder.barrier()
    until = book.clock() + timedelta(hours=1)

    async def revoke(lease: Lease, keep: str | None) -> Revocation:
        del lease, keep
        return Revocation(confirmed=False, until=until, detail="one may live until then")

    async def census(leases: Sequence[Lease]) -> Census:
        del leases
        return Census(alive=frozenset(), complete=complete)

    monkeypatch.setattr(book.target, "revoke", revoke)
    monkeypatch.setattr(book.target, "census", census)
    book.restart()
    await book.leases.load()
    book.running.clear()
    await book.sweep()
    await book.recorder.barrier()
    assert await book.states() == ["unknown"]
    report = await look(book)
    assert report.none_stands is complete
    if not complete:
        (found,) = report.findings
        assert (found.lease, found.until) == (lease.id, until)
        assert "never answered" in found.why


async def test_a_target_that_cannot_be_used_and_one_that_gives_too_much_are_told(book: Book):
    class Open(MemoryTarget):
        async def survey(self) -> Sequence[Finding]:
            return [Finding(said="anybody may look at everything")]

    class Down(Open):
        async def census(self, leases: Sequence[Lease]) -> Census:
            raise BrokerError("the server refuses `admin`")

    class Breaks(Open):
        async def survey(self) -> Sequence[Finding]:
            raise BrokerError("went away")

    brokers = {
        "plain": MemoryTarget(),
        "open": Open(),
        "down": Down(),
        "breaks": Breaks(),
    }
    assert [(t.broker, t.trouble, t.findings) for t in await survey(brokers)] == [
        ("plain", None, ()),
        ("open", None, (Finding(said="anybody may look at everything"),)),
        ("down", "the server refuses `admin`", ()),
        ("breaks", "went away", ()),
    ]
