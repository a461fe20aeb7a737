"""A disk that neither writes nor fails: nobody waits for ever, and what lands later fits."""

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from authority import Place
from evidence_house import leave
from sqlalchemy import Connection

from remit.evidence.ledger import Ledger
from remit.model.errors import EvidenceError
from remit.storage.sqlite.evidence import SqliteEvidence
from remit.storage.sqlite.journal import Journal

pytestmark = pytest.mark.crash

LIMIT = 0.05
OUTCOMES = {"call.succeeded", "call.failed", "call.denied", "call.unknown"}


class Disk:
    """A journal with its ledger, whose writer stops at ``hang`` until ``mend``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.go = threading.Event()
        self.fails = False

    async def open(self) -> Ledger:
        self.journal = Journal.open(self.folder / "remit.db")
        self.ledger = Ledger(
            SqliteEvidence(self.journal), folder=self.folder, trust_domain="corp.example"
        )
        await self.ledger.start()
        return self.ledger

    async def hang(self) -> None:
        """From now on the writer is stuck in a group; what is staged next waits behind it."""
        stuck = asyncio.Event()
        loop = asyncio.get_running_loop()

        def write(_: Connection) -> None:
            loop.call_soon_threadsafe(stuck.set)
            self.go.wait()
            if self.fails:
                raise OSError(5, "Input/output error")

        self.journal._wait_seconds = LIMIT
        self.journal.stage(write)
        waiting = asyncio.ensure_future(self.journal.barrier())
        await stuck.wait()
        with pytest.raises(EvidenceError, match="has not answered"):
            await waiting

    async def mend(self) -> None:
        """Let the writer go on, and wait until it did."""
        self.journal._wait_seconds = 10.0
        self.go.set()
        while self.journal._stuck is not None:  # noqa: ASYNC110 - the writer is a thread
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        await self.mend()
        await self.ledger.close()
        await self.journal.close()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    disk = Disk(tmp_path / "state")
    await disk.open()
    yield disk
    await disk.close()


async def test_a_hung_write_is_told_at_its_limit_and_by_health_until_it_lands(disk: Disk):
    await disk.hang()
    assert "has not answered" in str(disk.ledger.health())
    one = leave(disk.ledger, "call.failed", call="call_1")
    with pytest.raises(EvidenceError, match="has not answered"):
        await disk.ledger.barrier()
    with pytest.raises(EvidenceError, match="has not answered"):
        await disk.ledger.records()
    await disk.mend()
    await disk.ledger.barrier()
    assert one in [record.id for _, record in await disk.ledger.records()]


async def test_whoever_asks_while_it_hangs_hears_so_without_waiting_again(disk: Disk):
    await disk.hang()
    disk.journal._wait_seconds = 3600.0
    leave(disk.ledger, "call.failed", call="call_1")
    with pytest.raises(EvidenceError, match="has not answered"):
        await disk.ledger.barrier()


async def test_what_was_staged_behind_a_group_that_is_lost_is_lost_with_it(disk: Disk):
    """It may follow from what was lost: a record whose parent is nowhere never verifies."""
    await disk.hang()
    parent = leave(disk.ledger, call="call_1", effect="permit")
    leave(disk.ledger, "call.failed", call="call_1", parents=(parent,))
    disk.fails = True
    await disk.mend()
    with pytest.raises(EvidenceError, match="lost"):
        await disk.ledger.barrier()
    assert list(await disk.ledger.records()) == []


async def test_a_hung_disk_does_not_hold_up_the_end(tmp_path: Path):
    disk = Disk(tmp_path / "state")
    await disk.open()
    await disk.hang()
    with pytest.raises(EvidenceError, match="has not answered"):
        await disk.ledger.close()
    with pytest.raises(EvidenceError, match="ends without it"):
        await disk.journal.close()
    assert disk.journal.hung
    disk.go.set()
    await asyncio.to_thread(disk.journal._thread.join)
    disk.journal._lock_file.release()


@pytest.mark.parametrize("fails", [False, True])
async def test_killed_while_it_hangs_or_after_it_landed_every_call_has_one_outcome(
    tmp_path: Path, *, fails: bool
):
    disk = Disk(tmp_path / "state")
    await disk.open()
    seen = leave(disk.ledger, "call.identified", call="call_1")
    await disk.ledger.barrier()
    await disk.hang()
    leave(disk.ledger, call="call_1", effect="permit", parents=(seen,))
    with pytest.raises(EvidenceError):
        await disk.ledger.barrier()
    leave(disk.ledger, "call.failed", call="call_1", parents=(seen,))
    disk.fails = fails
    await disk.close()
    disk.go.clear()

    ledger = await disk.open()
    kinds = [record.kind for _, record in await ledger.find("call_1")]
    assert len(OUTCOMES & set(kinds)) == sum(kind in OUTCOMES for kind in kinds) == 1
    await disk.close()


UP = """
import sys, threading
from remit.cli import main
from remit.app import serve

serving = serve.serving

class Hanging:
    def __init__(self, loaded, **given):
        self.inner = serving(loaded, **given)
    async def __aenter__(self):
        house = await self.inner.__aenter__()
        house.journal.stage(lambda _: threading.Event().wait())
    async def __aexit__(self, *error):
        return await self.inner.__aexit__(*error)

serve.serving = Hanging
main.main(["up", "--config", sys.argv[1]])
"""


async def test_remit_up_ends_although_its_disk_hangs_and_says_so(tmp_path: Path):
    place = Place(tmp_path)
    limits = "[limits]\ndurable_seconds = 0.2\n"
    place.config.write_text(place.config.read_text() + limits)
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", UP, str(place.config)), stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            assert running.stderr is not None
            while b"remit is up" not in (line := await running.stderr.readline()):
                assert line, "it never came up"
            running.send_signal(signal.SIGTERM)
            said = await running.stderr.read()
            assert await running.wait() == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
    assert b"has not answered" in said
