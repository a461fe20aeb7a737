"""What people see: words instead of JSON, nothing a pipe has no use for, and no text that drives."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from remit.cli import chain, drawing
from remit.cli.approvals import _call
from remit.cli.drawing import arguments, cell, facts, inline, put, schema, table
from remit.cli.main import status_of

TASK = {
    "id": "task_1",
    "state": "open",
    "capabilities": [
        {
            "target": "payments/refund",
            "action": "call_tool",
            "args": {
                "order": {"const": "1234"},
                "amount": {"type": "number", "maximum": 100},
                "currency": {"enum": ["usd", "eur"]},
            },
            "other_args": False,
            "approval": "manager",
        },
        {"target": "crm/*", "action": "read_resource", "args": {}, "other_args": True},
    ],
    "budget": {
        "calls": 50,
        "seconds": None,
        "amounts": [
            {"name": "usd", "limit": "100", "target": "payments/refund", "argument": "amount"}
        ],
    },
    "spent": {"calls": 3, "seconds": 0.25044806999809225, "amounts": {"usd": "12.50"}},
    "label": {"confidentiality": "internal", "trusted": False, "categories": []},
    "environments": ["dev", "staging"],
    "closed_at": None,
}


def drawn(what: Any, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(what)
    return console.export_text()


def test_a_task_is_words_and_not_json():
    said = drawn(facts(TASK))
    assert 'payments/refund: order = "1234", amount number ≤ 100' in said
    assert 'currency one of ("usd", "eur"), approval by manager' in said
    assert "crm/* (read_resource): any other argument" in said
    assert "calls 50, usd 100 (amount of payments/refund)" in said
    assert "calls 3, seconds 0.25, usd 12.50" in said
    assert "confidentiality internal, trusted no" in said
    assert "dev, staging" in said
    assert not re.search(r"[{}\[\]]", said)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (True, "any"),
        ({}, "any"),
        ({"const": None}, "= null"),
        ({"type": "string", "pattern": "^a"}, 'string like "^a"'),
        ({"minimum": 1, "exclusiveMaximum": 9}, "any ≥ 1 < 9"),
        ({"const": 1, "type": "number"}, '{"const": 1, "type": "number"}'),
        ({"anyOf": [{"const": 1}]}, '{"anyOf": [{"const": 1}]}'),
        (False, "false"),
    ],
)
def test_a_schema_is_short_words_only_where_they_say_all_of_it(wanted: Any, said: str):
    assert schema(wanted) == said


def test_what_is_approved_is_shown_leaf_by_leaf_and_loses_nothing():
    call = {
        "arguments": {
            "to": {"name": "\u0430da", "odd key": [1, {}, [], None, ""]},
            "a.b": "line\nbreak\u202e",
        }
    }
    said = drawn(arguments(call))
    for line in (
        'arguments.to.name .* "\\\\u0430da"',
        'arguments.to\\["odd key"\\]\\[0\\] .* 1',
        'arguments.to\\["odd key"\\]\\[1\\] .* {}',
        'arguments.to\\["odd key"\\]\\[4\\] .* ""',
        'arguments\\["a.b"\\] .* "line\\\\nbreak\\\\u202e"',
    ):
        assert re.search(line, said.replace("  ", "  ")), (line, said)
    assert "\u202e" not in said


def test_an_approval_in_a_list_shows_its_call_on_one_line_of_bounded_length():
    preview = json.dumps({"arguments": {"amount": 40, "to": "a\nb"}})
    item = {"target": "payments/refund", "preview": preview}
    assert _call(item) == 'payments/refund(amount=40, to="a\\nb")'
    preview = json.dumps({"arguments": {"text": "x" * 500}})
    assert len(_call({"target": "t", "preview": preview})) == 120
    for broken in ("", "[]", "[" * 100_000, '{"arguments": null}'):
        assert _call({"target": "crm/get", "preview": broken}) == "crm/get()"


def test_a_label_is_in_words_also_where_it_is_stored_as_a_number():
    assert cell({"confidentiality": 1, "trusted": False}, "label").plain == (
        "confidentiality internal, trusted no"
    )
    assert cell({"confidentiality": "public"}, "label").plain == "confidentiality public"
    assert cell({"confidentiality": 99}, "label").plain == "confidentiality 99"


def test_nested_values_stay_on_the_line_of_their_item():
    assert cell([{"a": 1}, {"b": [2, 3]}]).plain == "a 1\nb 2, 3"
    assert cell({}).plain == cell([]).plain == cell(None).plain == "-"
    assert inline([[1, 2], {"x": True}]) == "(1, 2), (x yes)"


def test_in_a_pipe_there_is_no_padding_no_colour_no_line_and_no_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("COLUMNS", raising=False)
    put(table([{"a": "x" * 300, "b": "short"}, {"a": "y", "b": None}], {"a": "a", "b": "b"}))
    tree = Tree(Text("root", style="bold red"))
    tree.add("one").add("deep")
    tree.add("two")
    put(tree)
    said = capsys.readouterr().out
    assert "x" * 300 + "  short\n" in said
    assert not re.search(r"[ \t]+$|\x1b|[\u2500-\u257f]", said, re.MULTILINE)
    assert "root\n    one\n        deep\n    two\n" in said
    monkeypatch.setenv("COLUMNS", "60")
    put(table([{"a": "y", "b": "z" * 300}], {"a": "a", "b": "b"}))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


@pytest.mark.parametrize(("width", "rows"), [(60, False), (200, True)])
def test_a_table_that_does_not_fit_a_terminal_is_blocks_with_every_value_whole(
    width: int, rows: bool, monkeypatch: pytest.MonkeyPatch
):
    screen = io.StringIO()
    monkeypatch.setattr(
        drawing, "OUT", Console(width=width, file=screen, force_terminal=True, no_color=True)
    )
    item = {"id": "task_01m89z0ed8p7p5r3jp3mj44s48", "who": "reader", "why": "because " * 5}
    put(table([item], {"task": "id", "agent": "who", "purpose": "why", "more": "none"}))
    said = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert max(map(len, said.splitlines())) <= width
    assert item["id"] in said
    assert (said.splitlines()[0].strip() == item["id"]) is not rows
    assert re.search(r"agent\s+reader" if not rows else r"s48\s+reader", said)


def test_a_time_in_a_table_is_to_the_second():
    rows = [{"a": "2026-11-25T18:38:34.739924Z"}, {"a": "2026-11-25T18:53:34+00:00"}]
    said = drawn(table([*rows, {"a": "2026-11-25T18:53:34+02:00"}], {"at": "a"}))
    assert "2026-11-25 18:38:34 UTC" in said
    assert "2026-11-25 18:53:34 UTC" in said
    assert "18:53:34+02:00" in said


def at_terminal(tokens: list[str], columns: int, **environment: str) -> str:
    """Return what a command writes to a terminal so wide."""
    pid, screen = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        kept = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "NO_COLOR", "LINES"}}
        command = [sys.executable, "-m", "remit.cli.main", *tokens]
        os.execve(sys.executable, command, {**kept, "TERM": "xterm", **environment})
    said = b""
    while True:
        try:
            chunk = os.read(screen, 65_536)
        except OSError:
            break
        if not chunk:
            break
        said += chunk
    os.close(screen)
    os.waitpid(pid, 0)
    return said.decode()


def test_at_a_terminal_there_is_colour_unless_it_is_not_wanted_and_lines_fit(tmp_path: Path):
    config = tmp_path / "remit.toml"
    config.write_text("")
    tokens = ["doctor", "--config", str(config)]
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", at_terminal(tokens, 100))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", at_terminal(tokens, 100, NO_COLOR="1"))
    said = at_terminal(["task", "open", "--help"], 60)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    assert max(len(line) for line in plain.splitlines()) <= 60
    assert "╭" in plain


def test_help_in_a_pipe_is_one_line_for_each_option(capsys: pytest.CaptureFixture[str]):
    assert status_of(["task", "open", "--help"]) == 0
    said = capsys.readouterr().out
    assert not re.search(r"[ \t]+$|[\u2500-\u257f]", said, re.MULTILINE)
    assert "  --token-only: Print the token and nothing else." in said
    assert "--no-" not in said


def test_a_leases_life_is_told_in_words():
    lease = {
        "lease": "lease_1",
        "broker": "db",
        "target": "crm",
        "confirmed": None,
        "expires_at": "2026-11-25T19:41:45.491314+00:00",
        "detail": "dec_1",
    }
    records = [
        ("task.opened", {"workload": "spiffe://a/agent/b", "prompt": "sha256:0123456789abcdef"}),
        ("lease.issued", lease),
        ("lease.used", {"lease": "lease_1", "handle": "remit-1"}),
        ("lease.refused", {"lease": "lease_1", "why": "policy would not permit it now"}),
        ("lease.revoke_asked", {"lease": "lease_1", "by": "user:ada"}),
        ("credential.opened", {"lease": "lease_2", "name": "old", "fingerprint": "7a"}),
        ("lease.settled", {**lease, "confirmed": True}),
        ("lease.settled", {**lease, "confirmed": False, "detail": "the key lives on"}),
        ("lease.settled", {**lease, "confirmed": False, "revocation": "at_expiry"}),
    ]
    lines = [
        chain.line(
            {"kind": kind, "body": body, "index": 1, "at": "2026-11-25T19:27:11.942207Z"}
        ).plain
        for kind, body in records
    ]
    assert [line.partition(" #1 ")[2] for line in lines] == [
        "task.opened  spiffe://a/agent/b  prompt sha256:0123456789ab…",
        "lease.issued  lease_1  by db for crm  until 2026-11-25T19:41:45Z",
        "lease.used  lease_1",
        "lease.refused  lease_1  policy would not permit it now",
        "lease.revoke_asked  lease_1  by user:ada",
        "credential.opened  lease_2  old",
        "lease.settled  lease_1  confirmed: the target, asked afterwards, refuses it",
        "lease.settled  lease_1  not confirmed: the target cannot be asked  the key lives on",
        "lease.settled  lease_1  it has run out; the target cannot be asked",
    ]


def test_a_lease_of_a_whole_task_is_one_branch_with_its_uses_counted(
    capsys: pytest.CaptureFixture[str],
):
    lease = {
        "lease": "lease_1",
        "broker": "db",
        "target": "crm",
        "scope": "task",
        "confirmed": None,
        "expires_at": "2026-11-25T19:41:45.491314+00:00",
        "detail": "dec_1",
    }
    steps: list[tuple[str, str | None, dict[str, Any]]] = [
        ("task.opened", None, {}),
        ("call.decided", "call_1", {"decision": "dec_1", "effect": "permit"}),
        ("lease.reserved", None, lease),
        ("lease.issued", None, lease),
        ("call.succeeded", "call_1", {}),
        ("lease.used", "call_2", {"lease": "lease_1"}),
        ("call.succeeded", "call_2", {}),
        ("lease.used", "call_3", {"lease": "lease_1"}),
        ("lease.reserved", "call_4", {**lease, "lease": "lease_2", "scope": "call"}),
        ("lease.settled", None, {**lease, "confirmed": True}),
        ("lease.reserved", None, {**lease, "lease": "lease_3", "detail": "dec_9"}),
        ("lease.failed", None, {**lease, "lease": "lease_3"}),
        ("task.completed", None, {}),
    ]
    records = [
        {"kind": kind, "call": call, "body": body, "index": index, "at": "2026-11-25T19:27:11.942Z"}
        for index, (kind, call, body) in enumerate(steps)
    ]
    put(chain.draw({"task": "task_1", "records": records, "sealed": True}))
    said = capsys.readouterr().out.splitlines()
    ids = [re.sub(r"^.*?#", "#", each).split("  ")[0] for each in (x.strip() for x in said)]
    where = next(place for place, each in enumerate(said) if each.strip().startswith("lease_1"))
    assert said[where].strip() == ("lease_1  for the whole task, by db for crm: used by 3 calls")
    assert ids[where + 1 : where + 5] == [
        "#2 lease.reserved",
        "#3 lease.issued",
        "#5 lease.used",
        "#9 lease.settled",
    ]
    assert said[where + 3].endswith("again by 2 calls: call_2, call_3")
    # Every step of every call stands with its call still.
    unused = next(each.strip() for each in said if each.strip().startswith("lease_3"))
    assert unused.endswith("used by no call")
    times = [ids.count(f"#{index} {kind}") for index, (kind, _, _) in enumerate(steps)]
    assert times == [2 if index == 5 else 1 for index in range(len(steps))]


def test_what_was_delegated_is_drawn_below_the_line_that_says_so(
    capsys: pytest.CaptureFixture[str],
):
    def record(kind: str, index: int, **body: Any) -> dict[str, Any]:
        return {"kind": kind, "index": index, "at": "2026-01-02T03:04:05.678Z", "body": body}

    child = {
        "task": "task_2",
        "sealed": True,
        "records": [
            record("task.opened", 2, workload="spiffe://x/reader"),
            record("task.cancelled", 3, ended_with="task_1"),
        ],
    }
    whole = {
        "task": "task_1",
        "sealed": True,
        "records": [
            record("task.opened", 0, workload="spiffe://x/lead"),
            record("task.delegated", 1, child="task_2", workload="spiffe://x/reader"),
            record("task.cancelled", 4),
        ],
        "delegated": {"task_2": child},
    }
    put(chain.draw(whole))
    lines = capsys.readouterr().out.splitlines()
    said = [(len(line) - len(line.lstrip()), line.split()[-1]) for line in lines]
    depths = [depth for depth, _ in said]
    assert lines[2].strip().endswith("task.delegated  task_2  spiffe://x/reader")
    assert lines[3].strip() == "task_2"
    assert lines[5].strip().endswith("task.cancelled  with task_1, above it")
    assert depths[0] < depths[1] == depths[2] < depths[3] < depths[4] == depths[5] > depths[6]
