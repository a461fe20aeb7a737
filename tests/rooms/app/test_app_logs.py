"""The log tells what broke, and never what a variable held."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from remit.app import logs
from remit.cli.main import status_of

SECRET = "task-token-in-a-local-variable"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


def break_with_a_token() -> None:
    token = SECRET
    raise ValueError(f"broke after {len(token)} characters")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_token_in_a_local_variable_never_reaches_the_log(
    as_json: bool, capsys: pytest.CaptureFixture[str]
):
    logs.set_up("debug", json=as_json)
    log = structlog.get_logger()
    try:
        break_with_a_token()
    except ValueError:
        log.exception("a control route broke", path="/tasks")
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert "break_with_a_token" in said
    assert SECRET not in said


def test_json_logs_are_one_document_a_line_whatever_the_text(capsys: pytest.CaptureFixture[str]):
    logs.set_up("info", json=True)
    structlog.get_logger().info("said\nby\x1b[31m an agent", agent='"}\n{"level": "forged"')
    structlog.get_logger().debug("below the level")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "info"


def test_a_person_reads_one_short_line_and_nothing_drives_the_terminal(
    capsys: pytest.CaptureFixture[str],
):
    logs.set_up("info", json=False)
    log = structlog.get_logger()
    log.info("remit is up", url="http://127.0.0.1:1", state="a folder")
    log.info("upstream said", upstream="git", line="starting\x1b[2J\rok")
    log.warning("put off", what="sweeping")
    first, second, third = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d remit is up  url=http://127.0.0.1:1  state="a folder"', first
    )
    assert second[9:] == "git | starting\\x1b[2J\\rok"
    assert third[9:] == "warning: put off  what=sweeping"


def test_without_a_terminal_logs_are_json(capsys: pytest.CaptureFixture[str]):
    logs.set_up("info")
    structlog.get_logger().info("remit is up")
    assert json.loads(capsys.readouterr().err)["event"] == "remit is up"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], None),
        (["--json"], True),
        (["--log-format", "json"], True),
        (["--log-format", "text"], False),
        (["--log-format", "text", "--json"], False),
    ],
    ids=str,
)
def test_up_takes_the_format_of_its_log(
    options: list[str], wanted: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[bool | None] = []
    monkeypatch.setattr(logs, "set_up", lambda _, *, json: asked.append(json))
    assert status_of(["up", *options, "--config", str(tmp_path / "none.toml")]) == 2
    assert asked == [wanted]
