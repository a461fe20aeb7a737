"""The journal: order, groups, honest barriers, one process, bounded memory."""

import asyncio
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from remit.evidence.ports import LeafRow
from remit.model.errors import ConfigError, EvidenceError
from remit.storage.sqlite.journal import Journal


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal.open(tmp_path / "state" / "remit.db")
    journal.stage(lambda c: c.execute(text("CREATE TABLE note (word TEXT UNIQUE)")))
    await journal.barrier()
    yield journal
    await journal.close()


def leaf(name: str) -> LeafRow:
    return LeafRow(name, "call.decided", None, None, None, b"{}")


def note(word: str):
    return lambda c: c.execute(text("INSERT INTO note VALUES (:w)"), {"w": word})


def broken(connection: Connection) -> None:
    raise ValueError("a write that cannot be made, with a secret: hunter2")


async def words(journal: Journal) -> list[str]:
    return await journal.read(
        lambda c: list(c.execute(text("SELECT word FROM note ORDER BY rowid")).scalars())
    )


async def indices(journal: Journal) -> list[tuple[int, str]]:
    return await journal.read(
        lambda c: [tuple(r) for r in c.execute(text("SELECT idx, id FROM record ORDER BY idx"))]
    )


async def test_writes_run_in_the_order_in_which_they_were_staged(journal: Journal):
    for n in range(200):
        journal.stage(note(str(n)))
        journal.stage_leaf(leaf(f"r{n}"))
    await journal.barrier()
    assert await words(journal) == [str(n) for n in range(200)]
    assert await indices(journal) == [(n, f"r{n}") for n in range(200)]


async def test_a_read_sees_what_was_staged_before_it_without_a_barrier(journal: Journal):
    journal.stage(note("early"))
    assert await words(journal) == ["early"]


async def test_what_nobody_waits_for_is_written_soon_all_the_same(journal: Journal):
    journal.stage(note("lazy"))
    while journal._settled < journal._staged:  # noqa: ASYNC110 - the writer is a thread
        await asyncio.sleep(0.01)
    assert await words(journal) == ["lazy"]


async def test_a_write_that_raises_loses_its_whole_group_and_every_waiter_hears_it(
    journal: Journal,
):
    journal.stage(note("good"))
    journal.stage_leaf(leaf("r0"))
    journal.stage(broken)
    results = await asyncio.gather(journal.barrier(), journal.barrier(), return_exceptions=True)
    assert [type(r) for r in results] == [EvidenceError, EvidenceError]
    assert journal.epoch == 1
    assert "lost" in journal.health()
    assert await words(journal) == []
    assert await indices(journal) == []


async def test_the_next_group_succeeds_and_leaves_no_gap_in_the_log(journal: Journal):
    journal.stage_leaf(leaf("r0"))
    await journal.barrier()
    journal.stage_leaf(leaf("lost"))
    journal.stage(broken)
    with pytest.raises(EvidenceError):
        await journal.barrier()
    journal.stage_leaf(leaf("r1"))
    await journal.barrier()
    assert await indices(journal) == [(0, "r0"), (1, "r1")]
    assert journal.health() is None


async def test_the_reason_of_a_lost_group_never_holds_what_a_write_said(journal: Journal):
    journal.stage(broken)
    with pytest.raises(EvidenceError) as caught:
        await journal.barrier()
    assert "hunter2" not in str(caught.value) + str(journal.health())


async def test_a_duplicate_record_costs_its_group_and_changes_nothing(journal: Journal):
    journal.stage_leaf(leaf("twice"))
    await journal.barrier()
    journal.stage_leaf(leaf("twice"))
    with pytest.raises(EvidenceError):
        await journal.barrier()
    assert await indices(journal) == [(0, "twice")]


async def test_a_barrier_after_the_loss_still_tells_whoever_staged_before_it(journal: Journal):
    """The loss happened between this task's stage and its barrier; others wrote since."""
    lost = asyncio.Event()
    heard = []

    async def victim() -> None:
        journal.stage(note("mine"))
        await lost.wait()
        try:
            await journal.barrier()
        except EvidenceError as error:
            heard.append(str(error))
        journal.stage(note("again"))
        await journal.barrier()

    running = asyncio.create_task(victim())
    await asyncio.sleep(0)
    journal.stage(broken)
    with pytest.raises(EvidenceError):
        await journal.barrier()

    async def bystander() -> None:
        journal.stage(note("theirs"))
        await journal.barrier()

    await asyncio.create_task(bystander())
    lost.set()
    await running
    assert len(heard) == 1
    assert await words(journal) == ["theirs", "again"]


async def test_the_queue_is_bounded_and_says_so_instead_of_growing(tmp_path: Path):
    journal = Journal.open(tmp_path / "state" / "remit.db", max_queued=4)
    gate = threading.Event()
    try:
        journal.stage(lambda c: gate.wait(30))
        waiting = asyncio.create_task(journal.barrier())
        while journal._queue or not journal._waiters:  # noqa: ASYNC110 - the writer is a thread
            await asyncio.sleep(0.001)
        for n in range(4):
            journal.stage_leaf(leaf(f"r{n}"))
        with pytest.raises(EvidenceError, match="wait for the disk"):
            journal.stage_leaf(leaf("too many"))
        assert "wait for the disk" in journal.health()
        gate.set()
        await waiting
        await journal.barrier()
        assert len(await indices(journal)) == 4
    finally:
        gate.set()
        await journal.close()


async def test_what_is_staged_without_an_await_is_kept_or_lost_together(journal: Journal):
    written = threading.Event()

    def row(connection: Connection) -> None:
        note("a record")(connection)
        written.set()

    journal.stage(row)
    # The writer is free, and would take what is there; a crash then would find half of it.
    assert not written.wait(0.3), "the record went without its row"
    journal.stage(broken)
    with pytest.raises(EvidenceError):
        await journal.barrier()
    assert await words(journal) == []


async def test_a_group_that_is_lost_meanwhile_takes_all_that_is_being_staged_with_it(
    journal: Journal,
):
    reached, gate = threading.Event(), threading.Event()

    def failing(_: Connection) -> None:
        reached.set()
        gate.wait(30)
        raise ValueError

    journal.stage(failing)
    other = asyncio.create_task(journal.barrier())
    while not reached.is_set():  # noqa: ASYNC110 - the writer is a thread
        await asyncio.sleep(0.001)
    before = journal.epoch
    journal.stage(note("first"))
    gate.set()
    while journal.epoch == before:  # no await: the breath goes on
        pass
    told = journal.epoch
    journal.stage(note("second"))
    with pytest.raises(EvidenceError):
        await journal.barrier()
    assert journal.epoch != told, "what was staged in between would be taken for written"
    with pytest.raises(EvidenceError):
        await other
    journal.stage(note("third"))
    await journal.barrier()
    assert await words(journal) == ["third"]


async def test_what_another_thread_stages_needs_no_event_loop(journal: Journal):
    await asyncio.to_thread(journal.stage, note("far"))
    await journal.barrier()
    assert await words(journal) == ["far"]


async def test_a_cancelled_barrier_leaves_the_others_waiting(journal: Journal):
    journal.stage(note("kept"))
    first = asyncio.create_task(journal.barrier())
    second = asyncio.create_task(journal.barrier())
    await asyncio.sleep(0)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await words(journal) == ["kept"]


async def test_a_second_opening_is_refused_and_names_the_holder(journal: Journal):
    with pytest.raises(ConfigError, match=f"process {os.getpid()} since"):
        Journal.open(journal.path)


async def test_a_second_process_is_refused_and_names_the_holder(journal: Journal):
    code = (
        "import sys; from pathlib import Path; from remit.storage.sqlite.journal import Journal\n"
        "from remit.model.errors import ConfigError\n"
        "try: Journal.open(Path(sys.argv[1]))\n"
        "except ConfigError as e: print(e)"
    )
    second = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, str(journal.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"process {os.getpid()} since" in second.stdout


async def test_a_journal_can_be_opened_again_after_it_was_closed(tmp_path: Path):
    path = tmp_path / "state" / "remit.db"
    for n in range(3):
        journal = Journal.open(path)
        journal.stage_leaf(leaf(f"r{n}"))
        await journal.close()
        await journal.close()
    journal = Journal.open(path)
    assert await indices(journal) == [(0, "r0"), (1, "r1"), (2, "r2")]
    await journal.close()


async def test_a_closed_journal_refuses_everything(tmp_path: Path):
    journal = Journal.open(tmp_path / "state" / "remit.db")
    await journal.close()
    with pytest.raises(EvidenceError, match="closed"):
        journal.stage(note("late"))
    with pytest.raises(EvidenceError, match="closed"):
        await words(journal)
    assert journal.health() == "the journal is closed"


async def test_files_are_for_their_owner_alone(journal: Journal):
    journal.stage(note("x"))
    await journal.barrier()
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700
    for path in journal.path.parent.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_a_loose_folder_is_tightened(tmp_path: Path):
    folder = tmp_path / "loose"
    folder.mkdir(mode=0o755)
    journal = Journal.open(folder / "remit.db")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await journal.close()


def test_a_shared_folder_is_refused(tmp_path: Path):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(ConfigError, match="shared"):
        Journal.open(folder / "remit.db")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "remit.db"
    path.write_bytes(b"precious text, not a database" * 100)
    with pytest.raises(ConfigError):
        Journal.open(path)
    assert path.read_bytes() == b"precious text, not a database" * 100


def test_a_link_in_the_place_of_the_file_is_refused(tmp_path: Path):
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "remit.db").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError):
        Journal.open(tmp_path / "remit.db")


async def test_a_read_cannot_write(journal: Journal):
    with pytest.raises(EvidenceError):
        await journal.read(lambda c: c.execute(text("INSERT INTO note VALUES ('sly')")))
    assert await words(journal) == []


async def test_what_is_erased_is_gone_from_every_file(journal: Journal):
    journal.stage(note("unforgettable-3141592653589793"))
    await journal.barrier()
    await journal.erase(lambda c: c.execute(text("DELETE FROM note")))
    for path in journal.path.parent.glob("remit.db*"):
        assert b"unforgettable" not in path.read_bytes(), path
