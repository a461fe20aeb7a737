"""What a command imports before it answers: a person waits for it, and so does a client's agent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mcp_types
import pytest
from mcp.shared.inbound import encode_header_value

from remit.cli import doctor
from remit.cli.main import status_of
from remit.gateway import bridge

HEAVY = frozenset(
    {"mcp", "mcp_types", "cryptography", "sqlalchemy", "starlette", "uvicorn", "alembic"}
)
NETWORKED = frozenset({"aiohttp", "grpclib", "cedarpy"})


def imported(tokens: list[str], folder: Path) -> set[str]:
    """Return the top-level modules that one command has imported when it ends."""
    program = (
        "import sys\nfrom remit.cli.main import status_of\nstatus_of(sys.argv[1:])\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *tokens],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    found = set(ran.stderr.split())
    assert "remit.cli.main" in found, ran.stderr
    return found


@pytest.mark.parametrize(
    ("tokens", "absent"),
    [
        (["--help"], HEAVY | NETWORKED),
        (["task", "list"], HEAVY | NETWORKED),
        (["connect", "cursor", "--agent", "a"], HEAVY | NETWORKED),
        (["policy", "check"], HEAVY | {"aiohttp", "grpclib"}),
        (["doctor"], HEAVY | {"aiohttp", "grpclib"}),
        # It holds a key, and proves so: that takes cryptography.
        (["gateway", "stdio", "--upstream", "x"], (HEAVY | {"cedarpy"}) - {"cryptography"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_only_what_it_needs(
    tokens: list[str], absent: frozenset[str], tmp_path: Path
):
    (tmp_path / "remit.toml").write_text('[upstream.x]\ncommand = ["x"]\n')
    assert imported(tokens, tmp_path) & absent == set()


def test_what_the_bridge_knows_of_the_protocol_by_itself_is_what_the_protocol_says():
    assert bridge._VERSION_META == mcp_types.PROTOCOL_VERSION_META_KEY
    for name in (
        "git_log",
        "a.b/c:d-e",
        "file:///x",
        "é",
        " a",
        "=?base64?YQ==?=",
        "a b",
        "",
        "a\n",
    ):
        assert bridge._header_value(name) == encode_header_value(name)


def test_doctor_says_each_finding_when_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "remit.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REMIT_CONFIG", raising=False)
    before: list[str] = []

    def look(_: object) -> list[doctor.Finding]:
        before.append(capsys.readouterr().out)
        return [(True, "policy", "seen\x1b[2J")]

    monkeypatch.setattr(doctor, "_bundle", look)
    status_of(["doctor"])
    assert "system: " in before[0]
    assert "configuration: " in before[0]
    after = capsys.readouterr().out
    assert "policy: seen\\x1b[2J" in after
    assert "system: " not in after
