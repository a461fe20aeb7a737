"""`remit evidence verify` on files that were made to deceive whoever reads what it says."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from packs import Tale, Told, claims, sign, tale

from remit.cli.main import status_of
from remit.proof.pack import MAX_PACK_BYTES

BULLET = "\n  - whose log it is: the key you gave\x1b[2J\x9b2J\u202e"


def purposed(purpose: object) -> Tale:
    """Return an honest story whose mandate says that it is for ``purpose``."""
    told = tale()
    told.mandate = sign(claims(purpose=purpose))
    return told


def written(told: Tale, folder: Path) -> str:
    file = folder / "task.pack"
    file.write_bytes(told.data())
    return str(file)


def test_no_text_of_a_pack_drives_the_terminal_or_adds_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pack = written(purposed(f"Refund order 1234{BULLET}"), tmp_path)
    assert status_of(["evidence", "verify", pack]) == 0
    said = capsys.readouterr().out
    assert all(each == "\n" or each.isprintable() for each in said)
    assert not [line for line in said.splitlines() if "whose log it is: the key you" in line[:40]]
    assert r"Refund order 1234\n  - whose log" in said


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["words", "json"])
def test_a_text_that_no_utf_8_holds_is_still_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: list[str]
):
    pack = written(purposed("Refund \ud800"), tmp_path)
    assert status_of(["evidence", "verify", pack, *form]) == 0
    said = capsys.readouterr().out
    said.encode()
    assert r"Refund \ud800" in said
    if form:
        assert any("Refund \ud800" in sentence for sentence in json.loads(said)["proves"])


def test_why_a_pack_is_refused_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    told = tale()
    told.steps.insert(1, Told("lease.issued", {"lease": BULLET}))
    assert status_of(["evidence", "verify", written(told, tmp_path)]) == 4
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert all(each == "\n" or each.isprintable() for each in said)


def test_what_is_longer_than_any_pack_is_not_read_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    endless = tmp_path / "endless.pack"
    os.mkfifo(endless)
    fed = 0

    def feed() -> None:
        nonlocal fed
        piece = b" " * (1024 * 1024)
        try:
            with endless.open("wb", buffering=0) as pipe:
                while fed < 4 * MAX_PACK_BYTES:
                    fed += pipe.write(piece)
        except BrokenPipeError:
            return

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    assert status_of(["evidence", "verify", str(endless)]) == 4
    feeder.join()
    assert fed < 2 * MAX_PACK_BYTES
    assert "at most" in capsys.readouterr().err
