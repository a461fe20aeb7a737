"""A journal that takes nothing more, or lost a group of writes, while leases are about."""

from __future__ import annotations

import pytest
from lease_book import Book, task_of

from remit.model.errors import EvidenceError
from remit.model.lease import LeaseScope


def fill(book: Book, patch: pytest.MonkeyPatch) -> None:
    """Have the journal take nothing more."""

    def refuse(*_: object) -> None:
        raise EvidenceError("`100000` writes wait for the disk already: try again later")

    patch.setattr(book.pages, "put", refuse)
    patch.setattr(book.recorder, "stage", refuse)


@pytest.mark.parametrize("by", ["settle", "person"])
async def test_a_queue_that_is_full_does_not_keep_a_credential_alive(
    book: Book, monkeypatch: pytest.MonkeyPatch, by: str
):
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    fill(book, monkeypatch)
    leases = book.leases
    ending = {
        "person": lambda: leases.revoke(lease.id, "o"),
        "settle": lambda: leases.settle(lease),
    }
    with pytest.raises(EvidenceError):
        await ending[by]()
    assert book.target.live == set()
    assert len(book.leases.open_leases()) == 1  # how it ended is not written down
    monkeypatch.undo()
    await book.leases.settle(lease)
    assert book.leases.open_leases() == ()


async def test_a_lease_that_was_not_written_down_is_no_lease(monkeypatch: pytest.MonkeyPatch):
    book = Book(scope=LeaseScope.TASK)
    fill(book, monkeypatch)
    with pytest.raises(EvidenceError):
        book.reserve(task_of())
    assert book.leases.open_leases() == ()


@pytest.mark.parametrize("lost", ["reserved", "issued"])
async def test_a_lease_of_a_task_whose_records_may_be_lost_serves_no_other_call(lost: str):
    book, task = Book(scope=LeaseScope.TASK), task_of()
    first = book.reserve(task)
    if lost == "issued":
        await book.leases.issue(first)
    book.recorder.fail = True
    with pytest.raises(EvidenceError):
        await (book.recorder.barrier() if lost == "issued" else book.leases.issue(first))
    book.recorder.fail = False

    second = book.reserve(task)
    await book.leases.issue(second)
    await book.recorder.barrier()
    told = [step.kind for step, _ in book.recorder.records if step.body["lease"] == second.id]
    assert told == ["lease.reserved", "lease.issued"]
    assert second.id != first.id
    await book.leases.settle_task(task.id)
    assert book.target.live == set()
