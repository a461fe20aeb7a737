"""The front door before anything is installed: one line a phase, one line where it cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    # What a bare system has, without any `uv` of this one.
    for name in ("sh", "touch", "head", "mkdir", "cat", "chmod"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    return tmp_path


def python(path: Path, *, ok: bool) -> str:
    """Write a stand-in that is new enough or not, and whose environments install nothing."""
    path.write_text(
        "#!/bin/sh\n"
        f'case "$1" in\n-c) exit {0 if ok else 1};;\n--version) echo Python 3.9.1;;\n'
        '-m) if [ "$2" = venv ]; then mkdir -p .venv/bin; cat "$0" > .venv/bin/python; '
        "chmod +x .venv/bin/python; fi;;\nesac\n"
    )
    path.chmod(0o755)
    return str(path)


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    if program is None:
        pytest.skip("make is not installed")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
        "PATH": str(clone / "bin"),
    }
    return subprocess.run(
        [program, *arguments],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_phase_of_the_set_up_says_one_line_and_none_on_standard_output(clone: Path):
    new = python(clone / "bin" / "python3", ok=True)
    ran = make(clone, "setup", f"PYTHON={new}")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    first, second, third, fourth = ran.stderr.splitlines()
    assert first.startswith("making .venv")
    assert second.startswith("installing locked dependencies")
    assert third == "installing remit"
    assert fourth == "installing what the tests need"
    assert make(clone, "setup", f"PYTHON={new}").stderr == ""


def test_running_installs_no_more_than_running_takes(clone: Path):
    new = python(clone / "bin" / "python3", ok=True)
    ran = make(clone, "run", f"PYTHON={new}")
    said = [line for line in ran.stderr.splitlines() if not line.startswith(("make", "/bin/sh"))]
    assert said[2] == "installing remit"
    assert "installing what the tests need" not in ran.stderr
    assert (clone / ".venv/.run").exists()
    assert not (clone / ".venv/.done").exists()


def test_a_python_that_is_too_old_is_told_in_one_line_before_anything_is_made(clone: Path):
    old = python(clone / "bin" / "python3", ok=False)
    for arguments in (("run",), ("test", f"PYTHON={old}")):
        ran = make(clone, *arguments)
        assert ran.returncode != 0
        assert ran.stdout == ""
        said = [line for line in ran.stderr.splitlines() if not line.startswith("make")]
        assert len(said) == 1
        assert "3.11 or newer" in said[0]
        assert "Python 3.9.1" in said[0]
        assert not (clone / ".venv").exists()
