"""What the tests of the brokers that sign certificates share."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from processes import ROOT

from remit.credentials.port import Surroundings

INSTALLATION = "remit-5e111e57"


def surroundings(folder: Path, clock: Callable[[], datetime] | None = None) -> Surroundings:
    """Return what a broker may use of the house; these ask for neither HTTP nor a signer."""
    return Surroundings(
        http=None,  # type: ignore[arg-type]
        signer=None,  # type: ignore[arg-type]
        clock=clock or (lambda: datetime.now(UTC)),
        installation=INSTALLATION,
        state=folder / "state",
        path=lambda text: folder / text,
    )


def page_script(page: str, name: str, folder: Path) -> Path:
    """Lay the script that a broker's page shows, as a program; its first comment tells which."""
    text = (ROOT / "docs/brokers" / page).read_text()
    [script] = [
        each for each in re.findall(r"```shell\n(.*?)```", text, re.DOTALL) if f"# {name}: " in each
    ]
    made = folder / name
    made.write_text(script)
    made.chmod(0o755)
    return made


def program(name: str, part: str) -> Path:
    """Return a server's program, installed or unpacked; skip or fail the test where it is not here."""
    own = ROOT / ".cache" / "real" / part / "usr" / "sbin" / name
    system = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if own.exists():
        return own
    if system is not None:
        return Path(system)
    kind = {"openssh": "ssh", "nginx": "x509"}[part]
    reason = f"{name} is not here: run .ci/real.d/{kind}"
    if os.environ.get("REMIT_REQUIRE_REAL"):
        pytest.fail(reason)
    pytest.skip(reason)
