from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from remit.model.catalogue import Tool, ToolState
from remit.model.label import Confidentiality, Label
from remit.model.subject import Environment
from remit.policy.catalogue import CatalogueStore, Entry
from remit.storage.sqlite.catalogue import SqliteCatalogue
from remit.storage.sqlite.journal import Journal
from remit.testing.catalogue import MemoryCatalogue

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CatalogueStore]:
    if request.param == "memory":
        yield MemoryCatalogue()
        return
    journal = Journal.open(tmp_path / "state.db")
    yield SqliteCatalogue(journal)
    await journal.close()


def _entry(target: str = "helpdesk/refund") -> Entry:
    return Entry(
        tool=Tool(
            target=target,
            kind="tool",
            state=ToolState.CHANGED,
            definition_digest="sha256:a",
            seen_digest="sha256:b",
            environment=Environment.STAGING,
            side_effects=False,
            label=Label(Confidentiality.RESTRICTED, trusted=False, categories=frozenset({"pii"})),
            destinations=("to", "cc"),
            first_seen_at=NOW,
        ),
        pinned=b'{"a":1}',
        seen=b"\x00\xff{}",
        changes=True,
        accepted_by="person:ada",
        accepted_at=NOW,
    )


async def test_what_was_put_comes_back_whole(store: CatalogueStore):
    store.put(_entry())
    assert await store.get("helpdesk/refund") == _entry()


async def test_what_was_never_put_is_not_there(store: CatalogueStore):
    assert await store.get("helpdesk/refund") is None
    assert list(await store.list()) == []


async def test_the_latest_state_stands(store: CatalogueStore):
    store.put(_entry())
    later = replace(_entry(), changes=None, accepted_by=None, accepted_at=None)
    store.put(later)
    assert await store.get("helpdesk/refund") == later
    assert list(await store.list()) == [later]


async def test_entries_come_by_target_whatever_is_in_it(store: CatalogueStore):
    targets = ["b/x", "a/x' OR 1=1 --", "a/\N{SNOWMAN}", "a/file:///x?y=%00"]
    for target in targets:
        store.put(_entry(target))
    assert [entry.tool.target for entry in await store.list()] == sorted(targets)


async def test_what_was_put_survives_the_process(tmp_path: Path):
    journal = Journal.open(tmp_path / "state.db")
    SqliteCatalogue(journal).put(_entry())
    await journal.barrier()
    await journal.close()
    journal = Journal.open(tmp_path / "state.db")
    assert await SqliteCatalogue(journal).get("helpdesk/refund") == _entry()
    await journal.close()
