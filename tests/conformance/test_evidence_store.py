"""What evidence asks of any store, asked of each one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from remit.evidence.ports import EvidenceStore, LeafRow, SealedPayload
from remit.model.errors import EvidenceError
from remit.storage.sqlite.evidence import SqliteEvidence
from remit.storage.sqlite.journal import Journal
from remit.testing.evidence import MemoryEvidence


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EvidenceStore]:
    if request.param == "memory":
        yield MemoryEvidence()
        return
    journal = Journal.open(tmp_path / "state" / "remit.db")
    yield SqliteEvidence(journal)
    await journal.close()


def leaf(name: str, *, task: str | None = None, **more: Any) -> LeafRow:
    given: dict[str, Any] = {"call": None, "decision": None, "payloads": ()} | more
    return LeafRow(id=name, kind="call.decided", task=task, data=name.encode(), **given)


def sealed(name: str, key: str, owner: str) -> SealedPayload:
    return SealedPayload(name, key, owner, b"wrapped " + key.encode(), b"sealed " + name.encode())


async def test_records_are_indexed_in_the_order_in_which_they_were_staged(store: EvidenceStore):
    for n in range(300):
        store.stage_leaf(leaf(f"rec_{n}"))
    await store.barrier()
    leaves = await store.leaves(0, 1000)
    assert [(found.index, found.data) for found in leaves] == [
        (n, f"rec_{n}".encode()) for n in range(300)
    ]


async def test_a_page_starts_and_ends_where_it_is_told_to(store: EvidenceStore):
    for n in range(5):
        store.stage_leaf(leaf(f"rec_{n}"))
    assert [found.index for found in await store.leaves(2, 2)] == [2, 3]
    assert [found.index for found in await store.leaves(4, 9)] == [4]
    assert list(await store.leaves(5, 9)) == []


async def test_a_read_sees_what_was_staged_before_it(store: EvidenceStore):
    store.stage_leaf(leaf("rec_1", task="task_1"))
    assert [found.id for found in await store.of_task("task_1")] == ["rec_1"]


async def test_the_stored_bytes_are_the_staged_bytes(store: EvidenceStore):
    data = bytes(range(256)) * 255 + b"\x00" * 255
    store.stage_leaf(LeafRow("rec_1", "call.decided", None, None, None, data))
    assert (await store.leaves(0, 1))[0].data == data


async def test_a_duplicate_id_loses_its_group_and_changes_nothing(store: EvidenceStore):
    store.stage_leaf(leaf("rec_1"))
    await store.barrier()
    epoch = store.epoch
    store.stage_leaf(leaf("rec_2"))
    store.stage_leaf(leaf("rec_1"))
    with pytest.raises(EvidenceError):
        await store.barrier()
    assert store.epoch == epoch + 1
    assert [found.id for found in await store.leaves(0, 9)] == ["rec_1"]
    store.stage_leaf(leaf("rec_3"))
    await store.barrier()
    assert [(found.index, found.id) for found in await store.leaves(1, 9)] == [(1, "rec_3")]


async def test_a_record_is_found_by_its_own_its_calls_and_its_decisions_id(store: EvidenceStore):
    store.stage_leaf(leaf("rec_1", task="task_1", call="call_1"))
    store.stage_leaf(leaf("rec_2", task="task_1", call="call_1", decision="dec_1"))
    store.stage_leaf(leaf("rec_3", task="task_2", call="call_2"))
    assert [found.id for found in await store.find("call_1")] == ["rec_1", "rec_2"]
    assert [found.id for found in await store.find("dec_1")] == ["rec_2"]
    assert [found.id for found in await store.find("rec_3")] == ["rec_3"]
    assert list(await store.find("' OR 1=1 --")) == []


async def test_tasks_are_listed_once_each_in_pages(store: EvidenceStore):
    for place, n in enumerate((3, 1, 2, 1, 3)):
        store.stage_leaf(leaf(f"rec_{place}", task=f"task_{n}"))
    store.stage_leaf(leaf("rec_none"))
    assert list(await store.tasks(None, 2)) == ["task_1", "task_2"]
    assert list(await store.tasks("task_2", 9)) == ["task_3"]
    assert list(await store.tasks("task_3", 9)) == []


async def test_payloads_come_back_with_the_key_that_opens_them(store: EvidenceStore):
    one, two = sealed("prompt", "key_1", "task_1"), sealed("facts", "key_1", "task_1")
    store.stage_leaf(leaf("rec_1", task="task_1", payloads=(one, two)))
    await store.barrier()
    assert await store.payload("rec_1", "prompt") == one
    assert await store.payload("rec_1", "facts") == two
    assert await store.payload("rec_1", "other") is None
    assert await store.payload("rec_2", "prompt") is None
    assert await store.wrapped_key() == one.wrapped


async def test_an_empty_store_has_nothing(store: EvidenceStore):
    assert list(await store.leaves(0, 10)) == []
    assert await store.wrapped_key() is None
    assert await store.erase("task_1") == 0


async def test_erasing_takes_every_key_of_its_owner_and_no_other(store: EvidenceStore):
    store.stage_leaf(leaf("rec_1", task="task_1", payloads=(sealed("a", "key_1", "task_1"),)))
    store.stage_leaf(leaf("rec_2", task="task_1", payloads=(sealed("b", "key_2", "task_1"),)))
    store.stage_leaf(leaf("rec_3", task="task_2", payloads=(sealed("c", "key_3", "task_2"),)))
    before = await store.leaves(0, 9)
    assert await store.erase("task_1") == 2
    assert await store.erase("task_1") == 0
    for record, name in (("rec_1", "a"), ("rec_2", "b")):
        found = await store.payload(record, name)
        assert found is not None
        assert found.wrapped is None
    kept = await store.payload("rec_3", "c")
    assert kept is not None
    assert kept.wrapped == b"wrapped key_3"
    assert await store.leaves(0, 9) == before
