"""The throw-away repositories of the quickstart."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from processes import ROOT, python

MAKER = ROOT / "examples" / "quickstart" / "repository.py"


def make(folder: Path) -> dict[str, str]:
    command = [str(part) for part in python(MAKER, folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    made: dict[str, str] = json.loads(done.stdout)
    return made


def git(repository: str, *arguments: str) -> str:
    command = ["git", "-C", repository, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_working_tree_never_stands_on_main(tmp_path: Path):
    made = make(tmp_path)
    assert git(made["code"], "rev-parse", "--abbrev-ref", "HEAD") == "agent/start"
    assert git(made["code"], "rev-list", "--count", "main") == "2"
    assert git(made["production"], "rev-parse", "HEAD") == git(made["code"], "rev-parse", "main")


def test_what_exists_is_kept(tmp_path: Path):
    made = make(tmp_path)
    (tmp_path / "code" / "README.md").write_text("changed\n")
    assert make(tmp_path) == made
    assert (tmp_path / "code" / "README.md").read_text() == "changed\n"


def test_it_works_with_no_git_configuration_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    made = make(tmp_path / "here")
    assert git(made["code"], "status", "--porcelain") == ""
