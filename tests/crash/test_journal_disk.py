"""A disk that is full or fails: each write failed-and-lost, and failed-but-kept."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from evidence_house import House, leave
from sqlalchemy import Connection

from remit.model.errors import ConfigError, EvidenceError
from remit.storage.sqlite.journal import Journal

FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from evidence_house import House, leave
from remit.model.errors import EvidenceError

async def main(folder):
    house = House(Path(folder))
    ledger = await house.open()
    kept = [leave(ledger, "call.failed", payloads={"result": b"early"})]
    await ledger.barrier()
    await ledger.publisher.publish()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    size = (Path(folder) / "remit.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40_000, hard))
    failures = 0
    for _ in range(200):
        try:
            one = leave(ledger, "call.failed", payloads={"result": b"x" * 3000})
            await asyncio.wait_for(ledger.barrier(), 20)
            kept.append(one)
        except EvidenceError as error:
            failures += 1
            reason = str(error)
            if failures == 3:
                break
    assert failures == 3, failures
    assert ledger.health() is not None
    assert ledger.epoch >= 3
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    kept.append(leave(ledger, "call.failed", payloads={"result": b"late"}))
    await asyncio.wait_for(ledger.barrier(), 20)
    await house.close(ledger)
    print(reason)
    print(*kept)

asyncio.run(main(sys.argv[1]))
"""

SUPPORT = str(Path(__file__).resolve().parents[1] / "support")

pytestmark = pytest.mark.crash


async def test_a_full_disk_loses_nothing_promised_hangs_nothing_and_heals(tmp_path: Path):
    house = House(tmp_path / "state")
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FULL, str(house.folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": SUPPORT},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    reason, kept = ran.stdout.splitlines()[-2:]
    assert "a group of writes was lost" in reason
    ledger = await house.open()
    assert [record.id for _, record in await ledger.records(limit=1000)] == kept.split()
    await house.close(ledger)


def break_next_commit(journal: Journal, *, kept: bool) -> None:
    """Make the writer's next COMMIT fail: before anything was written, or after everything was."""

    def write(connection: Connection) -> None:
        real = connection._commit_impl

        def commit() -> None:
            connection.__dict__.pop("_commit_impl")
            if kept:
                real()
            raise OSError(5, "Input/output error")

        connection.__dict__["_commit_impl"] = commit

    journal.stage(write)


@pytest.mark.parametrize("kept", [False, True])
async def test_a_commit_that_fails_is_refused_whether_its_writes_were_lost_or_kept(
    tmp_path: Path, *, kept: bool
):
    house = House(tmp_path / "state")
    ledger = await house.open()
    first = leave(ledger, "call.failed", call="call_1")
    await ledger.barrier()
    break_next_commit(house.journal, kept=kept)
    doubtful = leave(ledger, call="call_2", effect="permit", payloads={"facts": b"doubtful"})
    with pytest.raises(EvidenceError, match="Input/output"):
        await ledger.barrier()
    assert ledger.epoch == 1
    last = leave(ledger, "call.failed", call="call_3", payloads={"result": b"later"})
    await ledger.barrier()
    await house.close(ledger)

    ledger = await house.open()
    records = [record for _, record in await ledger.records()]
    expected = [first, doubtful, last] if kept else [first, last]
    assert [record.id for record in records[: len(expected)]] == expected
    assert [record.kind for record in records[len(expected) :]] == ["call.unknown"] * kept
    for record in records:
        for name in record.payloads:
            assert await ledger.open_payload(record.id, name) is not None
    await house.close(ledger)


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
async def test_each_statement_of_a_group_can_fail_and_the_group_is_lost_whole(
    tmp_path: Path, nth: int, monkeypatch: pytest.MonkeyPatch
):
    from remit.storage.sqlite import leaves  # noqa: PLC0415 - the seam of this test alone

    house = House(tmp_path / "state")
    ledger = await house.open()
    real = leaves._statements
    count = 0

    def failing(
        head: str, columns: int, values: list[object]
    ) -> Iterator[tuple[str, Sequence[object]]]:
        nonlocal count
        for statement in real(head, columns, values):
            count += 1
            yield ("nonsense", ()) if count == nth else statement

    monkeypatch.setattr(leaves, "_statements", failing)
    for n in range(9):  # two statements for the records, two for the payloads
        leave(ledger, "call.failed", call=f"call_{n}", payloads={"result": b"x"})
    with pytest.raises(EvidenceError):
        await ledger.barrier()
    monkeypatch.undo()
    assert list(await ledger.records()) == []
    await house.close(ledger)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot use the state file"):
        Journal.open(tmp_path / "file" / "remit.db")


def test_a_path_that_is_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "state" / "remit.db").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot use the state file"):
        Journal.open(tmp_path / "state" / "remit.db")
