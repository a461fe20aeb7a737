"""The log tells what broke, and never what a variable held."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from remit.app import logs

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
