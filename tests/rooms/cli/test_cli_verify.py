"""`remit evidence verify`: what a relying party asks for is checked, and said in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remit.cli.main import status_of
from remit.proof.note import COSIGNATURE_V1, Signer

VECTORS = Path(__file__).parents[2] / "vectors" / "proof"
HONEST = str(VECTORS / "honest_pack.json")
KEY, WITNESS = (VECTORS / "vkeys.txt").read_text().split()


def test_a_witness_that_is_asked_for_is_checked_and_said(
    capsys: pytest.CaptureFixture[str],
):
    asked = ["evidence", "verify", HONEST, "--vkey", KEY, "--json", "--witness"]
    assert status_of([*asked, WITNESS]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["witnesses"] == ["witness.example/w1"]
    assert any("witness.example/w1 cosigned" in sentence for sentence in said["proves"])
    other = Signer("other.example/w", COSIGNATURE_V1, b"\x07" * 32).verifier.vkey
    assert status_of([*asked, WITNESS, "--witness", other]) == 4
    assert "`other.example/w` did not" in capsys.readouterr().out
    assert status_of([*asked, KEY]) == 2


def test_an_open_task_wants_the_flag_and_is_said_to_be_open(capsys: pytest.CaptureFixture[str]):
    asked = ["evidence", "verify", str(VECTORS / "open_pack.json"), "--vkey", KEY]
    assert status_of([*asked, "--json"]) == 4
    assert "--open-task" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert status_of([*asked, "--open-task", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sealed"] is False
    assert status_of([*asked, "--open-task"]) == 0
    assert "later records may be missing" in " ".join(capsys.readouterr().out.split())


def test_a_finished_task_without_its_seal_is_4(capsys: pytest.CaptureFixture[str]):
    pack = str(VECTORS / "ended_unsealed_pack.json")
    assert status_of(["evidence", "verify", pack, "--open-task", "--json"]) == 4
    assert "no seal" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert status_of(["evidence", "verify", HONEST, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sealed"] is True
