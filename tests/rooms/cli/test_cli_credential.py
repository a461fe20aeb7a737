"""`remit credential`: a key comes from a file, a pipe or a person, and is printed nowhere."""

from __future__ import annotations

import asyncio
import getpass
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import free_port

from remit.app.config import load
from remit.app.serve import serving
from remit.cli.main import status_of

SECRET = "sk-live-0123456789abcdef"
CONFIG = """\
[authority]
state = "s"
listen = "127.0.0.1:{port}"
[upstream.crm]
url = "http://127.0.0.1:9/mcp"
[upstream.crm.credential]
broker = "old"
header = {{ Authorization = "Bearer {{key}}" }}
grant = {{ key = "crm" }}
[broker.old]
kind = "sealed"
"""


class Run:
    """Runs `remit credential …` against one authority, and keeps all that was ever printed."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config, self._capsys = config, capsys
        self.printed = ""

    def __call__(self, *tokens: str, status: int = 0) -> str:
        assert status_of(["credential", *tokens, "--config", str(self._config)]) == status
        said = self._capsys.readouterr()
        self.printed += said.out + said.err
        return said.out + said.err

    def json(self, *tokens: str, status: int = 0) -> Any:
        return json.loads(self(*tokens, "--json", status=status).splitlines()[-1])


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "remit.toml"
    file.write_text(CONFIG.format(port=free_port()))
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(load(file)):
            ready.set()
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(30)
        yield file
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(config, capsys)


class Piped:
    """Standard input that is no terminal."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False


class Terminal:
    """Standard input that a person sits at."""

    def isatty(self) -> bool:
        return True


def test_a_key_is_sealed_from_each_of_its_sources_and_never_printed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "key").write_text(f"{SECRET}\n")
    run("seal", "one", "--file", str(tmp_path / "key"))
    monkeypatch.setattr(sys, "stdin", Piped(f"{SECRET}-2\r\n".encode()))
    run("seal", "two")
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", lambda prompt: f"{SECRET}-3")
    run("seal", "three")
    monkeypatch.setattr(sys, "stdin", Piped(f"{SECRET}-3".encode()))
    assert "nothing was rotated" in run("rotate", "three", status=1)
    monkeypatch.setattr(sys, "stdin", Piped(SECRET.encode()))
    assert "nothing was rotated" in run("rotate", "one", status=1), "its line's end was left out"
    listed = run.json("list")
    assert [each["name"] for each in listed["items"]] == ["one", "three", "two"]
    assert listed["missing"] == ["crm"]
    assert "0 days" in run("list")
    assert SECRET not in run.printed


@pytest.mark.parametrize("data", [b"", b"short", b"\xff\xfe" * 20, b"x" * 70_000, b"\x00" * 20])
def test_what_is_no_key_is_refused(run: Run, data: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", Piped(data))
    assert "key" in run("seal", "one", status=1 if b"\xff" not in data else 2)
    assert run.json("list")["items"] == []


def test_a_file_that_is_not_there_is_named_as_that(run: Run, tmp_path: Path):
    assert "No such file" in run("seal", "one", "--file", str(tmp_path / "none"), status=2)


def test_a_sealed_key_stands_and_doctor_and_the_check_say_so(
    run: Run, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def doctor(what: str = "sealed key crm") -> dict[str, Any]:
        status_of(["doctor", "--json", "--config", str(config)])
        checks = json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]
        return {check["what"]: check for check in checks}[what]

    assert doctor()["ok"] is False
    assert "remit credential seal crm" in doctor()["said"]
    assert doctor("broker old")["said"] == "kind `sealed` of remit"
    assert doctor("target of broker old")["said"] == "answers"
    assert run.json("verify-none")["none_stands"] is True
    monkeypatch.setattr(sys, "stdin", Piped(SECRET.encode()))
    run("seal", "crm")
    assert doctor() == {
        "ok": True,
        "what": "sealed key crm",
        "said": "last rotated 0 days ago",
    }
    found = run.json("verify-none", status=1)
    assert [each["handle"] for each in found["items"]] == ["sealed key `crm`"]
    said = run("verify-none", status=1).splitlines()[-1]
    assert "1 long-lived key stands" in said
    assert "LEASE" not in said
    run("remove", "crm")
    assert run.json("verify-none")["none_stands"] is True
