"""A lease is over only when whoever holds its credential has let go of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from lease_book import Book, task_of

from remit.model.errors import BrokerError
from remit.model.lease import Lease, LeaseState


async def issued(book: Book) -> Lease:
    lease = book.reserve(task_of())
    credential = await book.leases.issue(lease)
    assert credential.lease == lease.id
    book.leases.require_usable(lease)
    return lease


async def test_a_lease_is_settled_after_its_holder_let_go_and_not_before(book: Book):
    asked, go = asyncio.Event(), asyncio.Event()
    named: list[str] = []

    async def let_go(lease_id: str) -> None:
        named.append(lease_id)
        asked.set()
        await go.wait()

    book.leases.held_by(let_go)
    lease = await issued(book)
    settling = asyncio.create_task(book.leases.settle(lease))
    await asked.wait()
    # From its first line on nobody may begin to use it.
    with pytest.raises(BrokerError, match="taken back before its use"):
        book.leases.require_usable(lease)
    assert [each.state for each in book.leases.open_leases()] == [LeaseState.SETTLING]
    go.set()
    await settling
    assert book.leases.open_leases() == ()
    assert named == [lease.id]


@pytest.mark.parametrize("how", ["hangs", "breaks"])
async def test_a_holder_that_does_not_let_go_keeps_the_lease_open_and_is_asked_again(
    book: Book, how: str
):
    wrong = [True]

    async def let_go(_: str) -> None:
        if not wrong:
            return
        if how == "breaks":
            raise RuntimeError("a fault")
        await asyncio.Event().wait()

    book.leases.held_by(let_go)
    lease = await issued(book)
    await book.leases.settle(lease)
    # The target took it back at once all the same.
    assert book.target.live == set()
    assert [each.state for each in book.leases.open_leases()] == [LeaseState.SETTLING]
    wrong.clear()
    book.clock.now += timedelta(minutes=5)
    assert await book.sweep() == 0


async def test_one_holder_that_breaks_keeps_no_other_from_letting_go(book: Book):
    gone: list[str] = []

    async def breaks(_: str) -> None:
        raise RuntimeError("a fault")

    async def let_go(lease_id: str) -> None:
        await asyncio.sleep(0)
        gone.append(lease_id)

    book.leases.held_by(breaks)
    book.leases.held_by(let_go)
    lease = await issued(book)
    await book.leases.settle(lease)
    assert gone == [lease.id]
