"""The published log: complete before its checkpoint, continued after any crash."""

import asyncio
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from evidence_house import House, leave

from remit.evidence import publisher as room
from remit.evidence.files import write_file
from remit.evidence.ledger import Ledger
from remit.model.errors import EvidenceError, ProofError
from remit.proof.checkpoint import open_checkpoint
from remit.proof.merkle import Tree, leaf_hash, verify_consistency
from remit.proof.tiles import Tile, decode_bundle, tiles_of


def published(house: House, ledger: Ledger) -> tuple[int, bytes, list[bytes]]:
    """Read the log back as an outsider does: checkpoint, entries, and every hash tile checked."""
    folder = house.folder / "log"
    note = (folder / "checkpoint").read_bytes()
    found = open_checkpoint(note, [ledger.signer.verifier], origin="corp.example/log").checkpoint
    entries: list[bytes] = []
    for tile in tiles_of(found.size):
        if tile.level is None:
            entries += decode_bundle((folder / tile.path).read_bytes(), tile.width)
    tree = Tree(leaf_hash(entry) for entry in entries)
    assert (tree.size, tree.root()) == (found.size, found.root)
    for tile in tiles_of(found.size):
        if tile.level is not None:
            hashes = tree.nodes(tile.level * 8, tile.first, tile.width)
            assert (folder / tile.path).read_bytes() == hashes
    return found.size, found.root, entries


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700])
async def test_an_outsider_rebuilds_the_root_from_the_files(house: House, size: int):
    ledger = await house.open()
    ids = [leave(ledger, "call.failed") for _ in range(size)]
    await house.close(ledger)
    found, _, entries = published(house, ledger)
    assert found == size
    assert [ids[n].encode() in entry for n, entry in enumerate(entries)] == [True] * size


async def test_a_checkpoint_follows_soon_while_records_arrive(house: House):
    ledger = await house.open()
    leave(ledger, "call.failed")
    await ledger.barrier()
    while ledger.publisher.size < 1:  # noqa: ASYNC110 - the publisher offers no event
        await asyncio.sleep(0.01)
    assert published(house, ledger)[0] == 1
    await house.close(ledger)


async def test_each_checkpoint_is_consistent_with_the_one_before(house: House):
    ledger = await house.open()
    seen = []
    for burst in (1, 3, 260, 7):
        for _ in range(burst):
            leave(ledger, "call.failed")
        await ledger.publisher.publish()
        seen.append(published(house, ledger)[:2])
    for (old, old_root), (new, new_root) in pairwise(seen):
        proof = ledger.log.tree.consistency(old, new)
        verify_consistency(old, new, old_root, new_root, proof)
    await house.close(ledger)


async def test_partial_tiles_go_once_the_full_one_is_there(house: House):
    ledger = await house.open()
    for size in (200, 56, 1):
        for _ in range(size):
            leave(ledger, "call.failed")
        await ledger.publisher.publish()
    await house.close(ledger)
    log = house.folder / "log"
    names = {str(path.relative_to(log)) for path in log.rglob("*")}
    assert "tile/0/000" in names
    assert not {name for name in names if name.startswith("tile/0/000.p")}
    assert "tile/0/001.p/1" in names


async def test_published_files_never_change(house: House):
    ledger = await house.open()
    for _ in range(300):
        leave(ledger, "call.failed")
    await ledger.publisher.publish()
    full = house.folder / "log" / Tile(0, 0).path
    before = (full.read_bytes(), full.stat().st_ino)
    for _ in range(300):
        leave(ledger, "call.failed")
    await house.close(ledger)
    assert (full.read_bytes(), full.stat().st_ino) == before


class DiesError(Exception):
    """Stands for the process's death between two writes."""


@pytest.mark.parametrize("die_at", range(8))
async def test_a_death_between_any_two_files_is_put_right(
    house: House, monkeypatch: pytest.MonkeyPatch, die_at: int
):
    """Lost: the file of that turn was not written. The old checkpoint still holds."""
    ledger = await house.open()
    for _ in range(300):
        leave(ledger, "call.failed")
    await house.close(ledger)
    old_size, old_root, _ = published(house, ledger)

    ledger = await house.open()
    written = []

    def dying(path: Path, data: bytes, **more: int) -> None:
        if len(written) == die_at:
            raise DiesError
        written.append(path)
        write_file(path, data, **more)

    ledger.publisher._task.cancel()
    monkeypatch.setattr(room, "write_file", dying)
    for _ in range(300):
        leave(ledger, "call.failed")
    await ledger.barrier()
    try:
        await ledger.publisher.publish()
    except DiesError:
        assert published(house, ledger)[:2] == (old_size, old_root)
    monkeypatch.undo()
    await house.journal.close()

    ledger = await house.open()
    await house.close(ledger)
    size, root, _ = published(house, ledger)
    assert size == 600
    proof = ledger.log.tree.consistency(old_size, size)
    verify_consistency(old_size, size, old_root, root, proof)


async def test_a_file_that_was_half_written_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "checkpoint"
    write_file(path, b"old")
    monkeypatch.setattr(room.Path, "replace", lambda *_: (_ for _ in ()).throw(DiesError))
    with pytest.raises(DiesError):
        write_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_file(path, b"newer")
    assert path.read_bytes() == b"newer"


async def test_a_missing_tile_is_written_again_at_the_next_start(house: House):
    ledger = await house.open()
    for _ in range(300):
        leave(ledger, "call.failed")
    await house.close(ledger)
    (house.folder / "log" / Tile(None, 0).path).unlink()
    await house.close(await house.open())
    assert published(house, ledger)[0] == 300


@pytest.mark.parametrize(
    "note", [b"", b"corp.example/log\n1\n", b"\xff", b"corp.example/log\n0\nAAAA\n\n"]
)
async def test_a_checkpoint_that_is_not_ours_does_not_start(house: House, note: bytes):
    ledger = await house.open()
    leave(ledger, "call.failed")
    await house.close(ledger)
    (house.folder / "log" / "checkpoint").write_bytes(note)
    with pytest.raises(ProofError):
        await house.open()
    assert (house.folder / "log" / "checkpoint").read_bytes() == note


async def test_a_record_altered_while_running_is_not_published(house: House):
    ledger = await house.open()
    leave(ledger, "call.failed")
    await ledger.publisher.publish()
    leave(ledger, "call.failed")
    house.journal.stage(
        lambda c: c.exec_driver_sql("UPDATE record SET data = x'7b7d' WHERE idx = 0")
    )
    await ledger.barrier()
    ledger.publisher._task.cancel()
    with pytest.raises(ProofError, match="altered"):
        await ledger.publisher.publish()
    with pytest.raises(ProofError, match="altered"):
        await ledger.close()
    assert published(house, ledger)[0] == 1
    await house.journal.close()


async def test_an_unwritable_log_shows_in_health_and_heals(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    ledger = await house.open()
    await ledger.publisher.publish()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "write_file", full)
    leave(ledger, "call.failed")
    await ledger.barrier()
    with pytest.raises(EvidenceError, match="No space left"):
        await ledger.publisher.publish()
    while ledger.health() is None:  # noqa: ASYNC110 - the publisher offers no event
        await asyncio.sleep(0.01)
    assert "No space left" in ledger.health()
    monkeypatch.undo()
    while ledger.health() is not None:  # noqa: ASYNC110 - the publisher offers no event
        await asyncio.sleep(0.01)
    await house.close(ledger)
    assert published(house, ledger)[0] == 1


class Hung:
    """A disk for the log's files that does not answer until ``go``, and a clock to turn."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.writing = threading.Event()
        self.now = 0.0
        monkeypatch.setattr(ledger.publisher, "_monotonic", lambda: self.now)
        ledger.publisher._behind_since = 0.0  # a round may have begun by the other clock
        monkeypatch.setattr(room, "write_file", self._write)

    def _write(self, path: Path, data: bytes) -> None:
        self.writing.set()
        self.go.wait(20)
        write_file(path, data)


async def test_a_log_that_lags_shows_in_health_early_and_refuses_calls_past_the_grace(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    ledger = await house.open()
    await ledger.publisher.publish()
    disk = Hung(ledger, monkeypatch)
    leave(ledger, "call.failed")
    await asyncio.to_thread(disk.writing.wait)
    assert ledger.health() is None
    disk.now = room.SLOW_SECONDS + 1
    assert "has not been published for 6 seconds" in ledger.health()
    assert ledger.refusal() is None
    disk.now = room.GRACE_SECONDS + 1
    assert "has not been published for 31 seconds" in ledger.refusal()
    disk.go.set()
    while ledger.refusal() is not None:  # noqa: ASYNC110 - the publisher offers no event
        await asyncio.sleep(0.01)
    await house.close(ledger)
    assert published(house, ledger)[0] == 1


async def test_a_database_that_was_altered_refuses_calls_without_grace(house: House):
    ledger = await house.open()
    leave(ledger, "call.failed")
    await ledger.publisher.publish()
    house.journal.stage(
        lambda c: c.exec_driver_sql("UPDATE record SET data = x'7b7d' WHERE idx = 0")
    )
    leave(ledger, "call.failed")
    while ledger.refusal() is None:  # noqa: ASYNC110 - the publisher offers no event
        await asyncio.sleep(0.01)
    assert "altered" in ledger.refusal()
    with pytest.raises(ProofError):
        await ledger.close()
    await house.journal.close()


async def test_a_log_whose_disk_hangs_does_not_hold_up_the_end(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    ledger = await house.open()
    await ledger.publisher.publish()
    disk = Hung(ledger, monkeypatch)
    monkeypatch.setattr(room, "CLOSE_SECONDS", 0.05)
    leave(ledger, "call.failed")
    await ledger.barrier()
    with pytest.raises(EvidenceError, match="has not answered"):
        await ledger.close()
    disk.go.set()
    await ledger.publisher.publish()
    await house.journal.close()
