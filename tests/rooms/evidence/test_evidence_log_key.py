"""The log's key is kept elsewhere, and goes away: told at once, refused after the grace, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from evidence_house import leave

from remit.evidence import publisher as room
from remit.evidence.ledger import Ledger
from remit.keystore.kept import KeptKey
from remit.keystore.ports import Algorithm
from remit.model.errors import EvidenceError
from remit.storage.sqlite.evidence import SqliteEvidence
from remit.storage.sqlite.journal import Journal
from remit.testing.keys import MemoryKey


class Desk:
    """A ledger whose key is a :class:`MemoryKey`."""

    def __init__(self, folder: Path, key: MemoryKey, *, seconds: float = 5.0) -> None:
        self.journal = Journal.open(folder / "remit.db")
        self.ledger = Ledger(
            SqliteEvidence(self.journal),
            folder=folder,
            trust_domain="corp.example",
            log_key=KeptKey.open(key, Algorithm.ED25519, "`[keys] log`", seconds=seconds),
            publish_grace_seconds=30.0,
        )
        self.now = 1000.0
        self.ledger.publisher._monotonic = lambda: self.now

    async def told(self, part: str) -> str:
        """Wait until the health says ``part``."""
        async with asyncio.timeout(20):
            while part not in (said := self.ledger.health() or "well"):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        return said

    async def close(self) -> None:
        await self.ledger.close()
        await self.journal.close()


async def test_a_key_that_is_gone_is_told_refused_after_the_grace_and_taken_up_again(
    tmp_path: Path,
):
    key = MemoryKey()
    desk = Desk(tmp_path, key)
    await desk.ledger.start()
    await desk.ledger.publisher.publish()
    key.away = True
    leave(desk.ledger, "call.failed")
    await desk.ledger.barrier()
    told = await desk.told("no checkpoint can be signed: `[keys] log`: there is no token")
    assert desk.ledger.refusal() is None, "records are durable, and the grace is not over"
    desk.now += 31
    assert desk.ledger.refusal() == told
    key.away = False
    await desk.told("well")
    assert desk.ledger.refusal() is None
    assert desk.ledger.publisher.size == 1
    await desk.close()
    assert not (tmp_path / "keys" / "log.key").exists()


async def test_a_key_with_nothing_to_sign_is_missed_as_well(tmp_path: Path):
    key = MemoryKey()
    desk = Desk(tmp_path, key)
    await desk.ledger.start()
    await desk.ledger.publisher.publish()
    key.away = True
    desk.now += room.PROBE_SECONDS
    await desk.told("there is no token")
    key.away = False
    await desk.told("well")
    await desk.close()


async def test_a_token_that_hangs_holds_up_neither_the_loop_nor_the_end(tmp_path: Path):
    key = MemoryKey()
    desk = Desk(tmp_path, key, seconds=0.2)
    await desk.ledger.start()
    await desk.ledger.publisher.publish()
    key.answers.clear()
    leave(desk.ledger, "call.failed")
    await desk.ledger.barrier()
    await desk.told("nothing has answered")
    with pytest.raises(EvidenceError, match="nothing has answered"):
        await desk.ledger.close()
    await desk.journal.close()
    key.answers.set()


async def test_nothing_is_published_under_the_key_of_another_token(tmp_path: Path):
    key = MemoryKey()
    desk = Desk(tmp_path, key)
    await desk.ledger.start()
    await desk.ledger.publisher.publish()
    before = (tmp_path / "log" / "checkpoint").read_bytes()
    key.exchange()
    leave(desk.ledger, "call.failed")
    await desk.ledger.barrier()
    await desk.told("does not verify")
    assert (tmp_path / "log" / "checkpoint").read_bytes() == before
    with pytest.raises(EvidenceError):
        await desk.ledger.close()
    await desk.journal.close()
