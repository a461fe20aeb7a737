"""The command line over a running authority: one JSON document where asked, and safe text."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import structlog
from processes import free_port

from remit.app.config import load
from remit.app.serve import serving
from remit.cli import gateway
from remit.cli.client import ControlClient, UnreachableError
from remit.cli.drawing import cell, facts, printable
from remit.cli.main import COMMANDS, app, json_asked_for, status_of
from remit.model.errors import InputError

HOSTILE = "\x1b[2J\u202egnp.exe\nremit is fine [/red] [bold]\\[/x]"
TEMPLATE = """\
purpose = "Read"
[[capability]]
tool = "desk/read"
args = { id = { const = "1" } }
"""


class Served:
    """An authority on a loop of its own thread, as if in another process."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.stop = asyncio.Event()
        async with serving(load(self.config)):
            self.ready.set()
            await self.stop.wait()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(20)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "t").mkdir()
    (folder / "t" / "read.toml").write_text(TEMPLATE)
    config = folder / "remit.toml"
    config.write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{free_port()}"\n'
        '[upstream.desk]\ncommand = ["false"]\n[policy]\ntemplates = "t"\n'
    )
    # Its log goes to a terminal of its own, not among what the commands print.
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    running = Served(config)
    running.thread.start()
    assert running.ready.wait(20)
    yield config
    running.close()
    structlog.reset_defaults()


class Said:
    """Runs commands and returns what they said."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = config
        self.capsys = capsys

    def __call__(self, *tokens: str, status: int | None = 0) -> str:
        ended = status_of([*tokens, "--config", str(self.config)])
        assert status is None or ended == status, tokens
        return self.capsys.readouterr().out

    def json(self, *tokens: str, status: int | None = 0) -> Any:
        said = self(*tokens, "--json", status=status)
        assert said.count("\n") == 1, said
        return json.loads(said)


@pytest.fixture
def say(served: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(served, capsys)


def commands() -> set[tuple[str, ...]]:
    """Return every command that there is, group and name."""
    found = set()
    for name in COMMANDS:
        own = [sub for sub in app[name] if not sub.startswith("-")]
        found |= {(name, sub) for sub in own} if own else {(name,)}
    return found


SERVES = {("up",), ("run",), ("quickstart",), ("gateway", "stdio")}
"""Commands whose standard output is not a report: they serve, or it is another program's."""


def test_every_command_that_prints_prints_one_json_document(say: Said, tmp_path: Path):
    ran: set[tuple[str, ...]] = set()

    def run(*tokens: str, status: int | None = 0) -> Any:
        ran.add(next(tokens[:n] for n in (2, 1) if tokens[:n] in commands()))
        return say.json(*tokens, status=status)

    assert run("agent", "register", "reader", "--template", "read")["name"] == "reader"
    assert run("agent", "update", "reader", "--purpose", "Reads")["purpose"] == "Reads"
    assert run("agent", "list")["items"]
    assert run("agent", "show", "reader")["templates"] == ["read"]
    assert run("agent", "suspend", "reader")["state"] == "suspended"
    assert run("agent", "resume", "reader")["state"] == "active"
    task = run("task", "open", "read", "--agent", "reader")
    only = run("task", "open", "read", "--agent", "reader", "--token-only")
    assert only.keys() == {"task_token"}
    assert run("task", "show", task["id"])["state"] == "open"
    listed = run("task", "list", "--limit", "1")
    shown = run("task", "show", task["id"])
    assert shown.pop("children") == []
    after = run("task", "list", "--limit", "1", "--after", listed["next"])["items"][0]
    assert after == {**listed["items"][0], **shown}
    delegates(run, task["id"])
    assert run("task", "complete", task["id"])["state"] == "completed"
    assert run("task", "cancel", listed["items"][0]["id"])["state"] == "cancelled"
    assert run("approvals", "list")["items"] == []
    assert run("approvals", "list", "--all")["items"] == []
    for tokens in (("approvals", "show"), ("approve",), ("deny",), ("policy", "explain")):
        assert run(*tokens, "none_such", status=1)["error"]["message"]
    assert run("evidence", "show", task["id"])["sealed"] is True
    pack = str(tmp_path / "a.pack")
    assert run("evidence", "export", task["id"], "-o", pack)["pack"] == pack
    assert run("evidence", "verify", pack)["verified"] is True
    assert run("evidence", "audit")["items"] == []
    vkey = run("evidence", "key")["vkey"]
    assert run("evidence", "verify", pack, "--vkey", vkey)["verified"] is True
    assert run("catalog", "list")["items"] == []
    assert run("catalog", "scan", "desk", status=1)["error"]["code"] == "refused"
    assert run("catalog", "show", "desk/read", status=1)["error"]["code"] == "not_found"
    assert run("catalog", "accept", "desk/read", status=1)["error"]
    assert run("lease", "list")["items"] == []
    assert run("lease", "show", "none_such", status=1)["error"]["message"]
    assert run("lease", "revoke", "none_such", status=1)["error"]["message"]
    assert run("credential", "verify-none")["none_stands"] is True
    seals_a_key(run, tmp_path)
    assert run("keys", "rotate")["spiffe_sequence"] > 0
    assert run("keys", "make", "log", status=2)["error"]["code"] == "config"
    assert run("policy", "check")["ok"] is True
    assert run("policy", "test")["ok"] is True
    assert run("doctor", status=None)["checks"]
    assert run("connect", "cursor", "--agent", "reader")["configuration"]
    assert run("init", str(tmp_path / "new.toml"))["wrote"]
    assert run("init", str(tmp_path / "new.toml"), status=2)["error"]["code"] == "config"
    assert run("agent", "retire", "reader")["state"] == "retired"
    assert ran == commands() - SERVES


def delegates(run: Callable[..., Any], task_id: str) -> None:
    assert run("agent", "register", "helper", "--template", "read")["max_depth"] == 4
    part = run("task", "delegate", task_id, "read", "--agent", "helper")
    assert (part["parent"], part["agent"]) == (task_id, "helper")
    assert run("task", "show", task_id)["children"][0]["id"] == part["id"]
    assert list(run("evidence", "show", task_id)["delegated"]) == [part["id"]]


def seals_a_key(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-live-0123456789\n")
    (tmp_path / "next").write_text("sk-live-9876543210\n")
    file = str(tmp_path / "key")
    sealed = run("credential", "seal", "crm", "--file", file)
    assert run("credential", "list")["items"] == [sealed]
    again = run("credential", "seal", "crm", "--file", file, status=1)
    assert "remit credential rotate crm" in again["error"]["message"]
    rotated = run("credential", "rotate", "crm", "--file", str(tmp_path / "next"))
    assert rotated["fingerprint"] != sealed["fingerprint"]
    assert run("credential", "remove", "crm")["removed"] == "crm"


def test_each_of_these_is_also_text_for_people(say: Said):
    say("agent", "register", "writer", "--template", "read", "--purpose", "Writes [b]all[/b]")
    assert "Writes [b]all[/b]" in say("agent", "show", "writer")
    assert "writer" in say("agent", "list")
    token = say("task", "open", "read", "--agent", "writer", "--token-only").strip()
    assert token.count(".") == 2
    said = say("task", "open", "read", "--agent", "writer")
    assert "REMIT_TASK" in said
    listed = say("task", "list", "--limit", "1")
    assert "more: --after" in listed
    assert "sealed" in say("evidence", "show", listed.split("--after ")[1].strip())
    assert "nothing waits" in say("approvals", "list")
    assert "no credential" in say("lease", "list")
    key = say.json("evidence", "key")
    vkey = key["vkey"]
    assert vkey.startswith(f"{key['origin']}+")
    assert vkey in say("evidence", "key").split()
    assert say("evidence", "key", "--vkey-only") == f"{vkey}\n"
    assert vkey in say("doctor", status=None).split()


def test_the_audit_lists_open_tasks_apart_and_takes_them_for_no_fault(say: Said):
    say("agent", "register", "audited", "--template", "read")
    task = say.json("task", "open", "read", "--agent", "audited")["id"]
    found = say.json("evidence", "audit", "--limit", "500")
    assert found["items"] == []
    assert task in found["open"]
    said = say("evidence", "audit", "--limit", "500")
    assert task in said.partition("open still")[2]
    pack = str(say.config.parent / "open.pack")
    assert f"{pack} --open-task" in say("evidence", "export", task, "-o", pack)
    say("task", "complete", task)
    assert f"{pack}\n" in say("evidence", "export", task, "-o", pack)
    assert task not in say.json("evidence", "audit", "--limit", "500")["open"]


def warned(say: Said, *tokens: str) -> str:
    """Run a command that succeeds, and return its warnings."""
    ended = status_of([*tokens, "--config", str(say.config)])
    captured = say.capsys.readouterr()
    assert ended == 0, captured.err
    return captured.err


def test_a_template_that_does_not_exist_is_warned_of_with_the_one_meant(say: Said):
    said = warned(say, "agent", "register", "slip", "--template", "raed")
    assert "warning: there is no template `raed` in force: did you mean `read`?" in said
    said = warned(say, "agent", "update", "slip", "--gateway-template", "other", "--json")
    assert "`raed`" in said
    assert "`other` in force: there is `read`" in said
    assert "under no template" in warned(say, "agent", "register", "bare")
    assert warned(say, "agent", "update", "slip", "--template", "read", "--json").count("\n") == 1


def test_a_task_under_a_wrong_template_is_refused_with_those_that_may_be_used(say: Said):
    say("agent", "register", "opener", "--template", "read")
    say("agent", "register", "empty")

    def refused(template: str, agent: str) -> str:
        found = say.json("task", "open", template, "--agent", agent, status=1)["error"]
        return str(found["message"])

    said = refused("raed", "opener")
    assert "did you mean `read`?" in said
    assert "agent `opener` may act under `read`" in said
    said = refused("read", "empty")
    assert "may not act under template `read`" in said
    assert "`remit agent update empty --template read`" in said
    assert "no agent `nobody`" in refused("read", "nobody")


def test_connect_warns_of_an_agent_that_will_be_refused(say: Said):
    connect = ("connect", "cursor", "--agent")
    say("agent", "register", "bridged", "--gateway-template", "read")
    assert warned(say, *connect, "bridged") == ""
    assert "did you mean `bridged`?" in warned(say, *connect, "brigded")
    assert "remit agent register brigded" in warned(say, *connect, "brigded", "--json")
    say("agent", "suspend", "bridged")
    assert "remit agent resume bridged" in warned(say, *connect, "bridged")
    say("agent", "retire", "bridged")
    assert "retired for good" in warned(say, *connect, "bridged")
    say("agent", "register", "tasked", "--template", "read")
    assert "may begin no task by itself" in warned(say, *connect, "tasked")
    assert warned(say, "connect", "python", "--agent", "tasked") == ""


def test_an_error_of_the_authority_is_1_and_keeps_its_words(say: Said):
    assert "no agent `nobody`" in say.json("agent", "show", "nobody", status=1)["error"]["message"]
    assert say.json("task", "list", "--limit", "0", status=1)["error"]["message"].startswith(
        "`limit`"
    )


@pytest.mark.parametrize("name", ["", ".", "..", "reader/retire", "../keys/rotate", "/"])
def test_a_name_is_never_a_way_to_another_route(say: Said, name: str):
    assert say.json("agent", "show", name, status=2)["error"]["code"] == "invalid_input"
    assert say.json("evidence", "show", name, status=2)["error"]["code"] == "invalid_input"


@pytest.mark.parametrize(
    "name", ["\udcff", "a b", "?limit=1", "#", "%2e%2e", "é", "\n", "x" * 3000]
)
def test_a_strange_name_is_asked_for_as_it_is_and_not_found(say: Said, name: str):
    assert say.json("agent", "show", name, status=1)["error"]["message"].isprintable()


def test_usage_errors_are_json_where_json_was_asked_for(capsys: pytest.CaptureFixture[str]):
    for tokens in (
        ["no-such", "--json"],
        ["agent", "show", "--json"],
        ["agent", "list", "--json", "--x"],
    ):
        assert status_of(tokens) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_another_commands_json_is_not_ours():
    assert json_asked_for(["run", "--json", "--agent", "a", "--", "x"])
    assert json_asked_for(["agent", "list", "--json=True"])
    assert not json_asked_for(["agent", "list", "--json=false"])
    assert not json_asked_for(["run", "--agent", "a", "--", "x", "--json"])


@pytest.mark.parametrize("text", ["[/red]", "[bold]", "\\[/red]", HOSTILE])
def test_wrong_usage_is_shown_as_it_was_typed(text: str, capsys: pytest.CaptureFixture[str]):
    assert status_of(["agent", "list", text]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert printable(text)[:6] in said


def test_run_without_an_authority_is_3_and_its_commands_json_stays_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert status_of(["run", "--agent", "a", "--", "true", "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "cannot be reached" in captured.err


def test_run_ends_as_a_shell_would_where_there_is_nothing_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("no program")
    assert status_of(["run", "--agent", "a"]) == 2
    assert "-- COMMAND" in capsys.readouterr().err
    for command, status, step in (
        ("no-such-program-here", 127, "mend PATH"),
        ("./nowhere/at-all", 127, "say its path"),
        ("./plain", 126, "chmod +x"),
        (".", 126, "cannot be executed"),
    ):
        assert status_of(["run", "--agent", "a", "--", command]) == status
        assert step in capsys.readouterr().err


def test_what_a_terminal_would_obey_is_written_out():
    assert printable("a\x1b[31m\u202e\x9b\n\t\x7f\ud800é") == (
        "a\\x1b[31m\\u202e\\x9b\\n\\t\\x7f\\ud800é"
    )
    assert printable({"k\n": ["\r", 1, None]}) == {"k\\n": ["\\r", 1, None]}


@pytest.mark.parametrize("value", [HOSTILE, [HOSTILE], {"a": HOSTILE}, [{"a": HOSTILE}]])
def test_no_value_drives_the_terminal_or_the_markup(value: Any):
    shown = cell(value).plain
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "[/red]" in shown
    assert facts({HOSTILE: value}).row_count == 1


def test_the_client_takes_no_stranger_for_an_authority(tmp_path: Path):
    with pytest.raises(UnreachableError, match="remit up"):
        ControlClient(tmp_path / "no.sock").get("status")
    with pytest.raises(InputError):
        ControlClient(tmp_path / "no.sock").get("agents", "a/b")


class NoWorkload:
    """A Workload API that has nothing to say."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


def test_the_stdio_gateway_never_logs_into_its_clients_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    async def bridge(*_: Any, **__: Any) -> None:
        structlog.get_logger().warning("the gateway could not be asked", reason="it is down")

    monkeypatch.chdir(tmp_path)
    # No other authority of this machine's is to be asked.
    (tmp_path / "remit.toml").write_text(f'[authority]\nlisten = "127.0.0.1:{free_port()}"\n')
    monkeypatch.setattr(gateway, "bridge", bridge)
    monkeypatch.setattr(gateway, "WorkloadClient", NoWorkload)
    usual = structlog.get_config()
    handlers = list(logging.getLogger().handlers)
    try:
        assert status_of(["gateway", "stdio", "--upstream", "git"]) == 0
    finally:
        structlog.configure(**usual)
        logging.getLogger().handlers[:] = handlers
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "could not be asked" in captured.err
