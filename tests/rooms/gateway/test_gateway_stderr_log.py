"""An upstream's standard error in our log: its name on each line, few lines, and no secret."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from remit.gateway.stderr_log import LINE_CHARACTERS, LINES_A_WINDOW, WINDOW_SECONDS, StderrLog


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def said(data: bytes, environment: dict[str, str] | None = None) -> list[str]:
    with capture_logs() as logs:
        made = StderrLog("git", environment or {}, Clock())
        made.feed(data)
        made.end()
    assert all(entry["upstream"] == "git" for entry in logs)
    return [entry["line"] for entry in logs]


def test_lines_are_whole_however_they_come_and_the_last_one_too():
    with capture_logs() as logs:
        made = StderrLog("git", {}, Clock())
        for each in (b"on", b"e\ntw", b"o\n\n  \nthree"):
            made.feed(each)
        made.end()
    assert [entry["line"] for entry in logs] == ["one", "two", "three"]


def test_a_flood_is_counted_and_not_shown():
    clock = Clock()
    with capture_logs() as logs:
        made = StderrLog("git", {}, clock)
        made.feed(b"again\n" * 1000)
        assert len(logs) == LINES_A_WINDOW
        clock.now += WINDOW_SECONDS
        made.feed(b"quiet now\n")
        made.feed(b"again\n" * 30)
        made.end()
    assert logs[LINES_A_WINDOW]["lines"] == 1000 - LINES_A_WINDOW
    assert logs[LINES_A_WINDOW + 1]["line"] == "quiet now"
    assert logs[-1]["lines"] == 31 - LINES_A_WINDOW


def test_a_long_line_is_cut_and_one_without_end_is_held_in_bounds():
    assert said(b"x" * 5000 + b"\n") == ["x" * LINE_CHARACTERS]
    with capture_logs() as logs:
        made = StderrLog("git", {}, Clock())
        for _ in range(100):
            made.feed(b"y" * 65_536)
            assert len(made._held) <= 65_536
        made.feed(b"the rest of it\nnext\n")
        made.end()
    assert [entry["line"] for entry in logs] == ["next"]


def test_no_line_of_a_key_and_no_form_of_a_live_credential_reaches_the_log():
    key = "-----BEGIN KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\nCCqGSM49AwEHBG0wawIBAQQg\n-----END KEY-----\n"
    with capture_logs() as logs:
        made = StderrLog("git", {}, Clock(), [key], lambda text: text.replace("YWxpdmU", "[gone]"))
        made.feed(key.encode() + b"it is YWxpdmU here\n")
        made.end()
    lines = [entry["line"] for entry in logs]
    assert not [line for line in lines if "MIGH" in line or "AwEH" in line]
    assert lines[-1] == "it is [gone] here"


@pytest.mark.parametrize(
    "line",
    [
        "connecting with hunter2hunter2 to the database",
        "PASSWORD=hunter2x-zz",
        'config: {"api_key": "hunter2x-zz", "user": "ada"}',
        "Authorization: Bearer hunter2x-zz.abcdef",
        "header bearer hunter2x-zz-abc",
        "got eyJhbGciOiJFUzI1NiJ9.eyJodW50ZXIyIjoxfQ.hunter2x-zz",
        "postgres://ada:hunter2x-zz@db/x",
        "client_secret: 'hunter2x-zz and more'",
        "access-token=hunter2x-zz&next=1",
    ],
)
def test_no_secret_reaches_the_log(line: str):
    (shown,) = said(line.encode() + b"\n", {"DB_PASSWORD": "hunter2hunter2"})
    assert "hunter2" not in shown
    assert "[blanked]" in shown


@pytest.mark.parametrize(
    "line", ["token budget is spent", "cookies are fine", "listening on http://127.0.0.1:80/a"]
)
def test_ordinary_words_are_left_alone(line: str):
    assert said(line.encode(), {"MODE": "on"}) == [line]
