"""The command line: help for everything, exit codes as documented, JSON where asked."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from remit import __version__
from remit.cli import connect
from remit.cli.main import COMMANDS, EPILOGUE, app, status_of

GROUPS = {
    "agent": ("register", "update", "list", "show", "suspend", "resume", "retire"),
    "task": ("open", "delegate", "list", "show", "complete", "cancel"),
    "approvals": ("list", "show"),
    "policy": ("check", "test", "explain"),
    "evidence": ("show", "export", "verify", "audit", "key"),
    "catalog": ("scan", "list", "show", "accept"),
    "lease": ("list", "show", "revoke"),
    "credential": ("seal", "rotate", "remove", "list", "verify-none"),
    "keys": ("rotate", "make"),
    "gateway": ("stdio",),
}
EVERY = [
    *((name,) for name in COMMANDS if name not in GROUPS),
    *((group, name) for group, names in GROUPS.items() for name in names),
]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REMIT_CONFIG", raising=False)
    return tmp_path


@pytest.mark.parametrize("tokens", EVERY, ids=" ".join)
def test_every_command_explains_itself(tokens: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    assert status_of([*tokens, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"remit {' '.join(tokens)}" in said
    assert len(said.splitlines()) > 4


def test_the_groups_listed_here_are_all_there_are():
    for group, names in GROUPS.items():
        found = {name for name in app[group] if not name.startswith("-")}
        assert found == set(names)


def test_every_exit_status_is_in_the_help(capsys: pytest.CaptureFixture[str]):
    status_of(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert " ".join(EPILOGUE.split()) in said


@pytest.mark.parametrize(
    "tokens",
    [["agent", "list"], ["task", "list"], ["approvals", "list"], ["evidence", "audit"]],
    ids=" ".join,
)
def test_without_an_authority_the_status_is_3_and_the_message_says_what_to_do(
    empty: Path, tokens: list[str], capsys: pytest.CaptureFixture[str]
):
    assert status_of(tokens) == 3
    assert "remit up" in capsys.readouterr().err


def test_an_error_is_json_where_json_was_asked_for(empty: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of(["agent", "list", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unreachable"


@pytest.mark.parametrize(
    "tokens", [["no-such"], ["agent", "list", "--no-such"], ["agent", "show"]], ids=" ".join
)
def test_wrong_usage_is_2(empty: Path, tokens: list[str], capsys: pytest.CaptureFixture[str]):
    assert status_of(tokens) == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tokens", "wrong", "step"),
    [
        (["agnt", "list"], 'Did you mean "agent"?', "`remit --help`"),
        (["agent", "lst"], 'Did you mean "list"?', "`remit agent --help`"),
        (["agent", "show"], "`remit agent show` needs NAME", "`remit agent show --help`"),
        (["task", "open", "t"], "`remit task open` needs `--agent`", "`remit task open --help`"),
        (["agent", "list", "x", "y"], "does not take `x y`", "`remit agent list --help`"),
        (["task", "list", "--limt", "3"], "Did you mean --limit?", "`remit task list --help`"),
        (["run", "--", "true"], "`remit run` needs `--agent`", "`remit run --help`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_says_what_is_wrong_and_what_to_type_next(
    empty: Path, tokens: list[str], wrong: str, step: str, capsys: pytest.CaptureFixture[str]
):
    assert status_of(tokens) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert wrong in first
    assert step in second


def test_init_writes_a_file_that_loads_and_leaves_an_existing_one_alone(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    assert status_of(["init"]) == 0
    written = (empty / "remit.toml").read_text()
    assert tomllib.loads(written)["authority"]["trust_domain"] == "remit.local"
    assert status_of(["init"]) == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert (empty / "remit.toml").read_text() == written


def test_a_wrong_configuration_is_2_and_names_the_key(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    (empty / "remit.toml").write_text("[authority]\nlisten_at = 1\n")
    assert status_of(["agent", "list"]) == 2
    assert "listen_at" in capsys.readouterr().err


def test_garbage_is_no_pack_and_the_status_is_4(empty: Path, capsys: pytest.CaptureFixture[str]):
    (empty / "a.pack").write_bytes(b"PK\x03\x04 garbage")
    assert status_of(["evidence", "verify", "a.pack"]) == 4
    assert "step 1" in capsys.readouterr().err


def test_the_honest_pack_of_the_vectors_verifies(empty: Path, capsys: pytest.CaptureFixture[str]):
    pack = next((Path(__file__).parents[2] / "vectors" / "proof").glob("honest_pack*"))
    assert status_of(["evidence", "verify", str(pack), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verified"] is True
    assert any("whose" in sentence for sentence in said["does_not_prove"])


def test_the_default_policy_checks_and_passes_its_cases(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    assert status_of(["policy", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert status_of(["policy", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unexercised"] == []


def test_doctor_names_what_is_wrong_and_what_to_do(empty: Path, capsys: pytest.CaptureFixture[str]):
    (empty / "remit.toml").write_text(
        '[authority]\nlisten = "127.0.0.1:1"\n[upstream.x]\ncommand = ["no-such-program-here"]\n'
    )
    assert status_of(["doctor", "--json"]) == 1
    checks = {check["what"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["upstream x"]["ok"] is False
    assert "install it" in checks["upstream x"]["said"]
    assert checks["templates"]["ok"] is False


def test_doctor_reads_services_and_says_which_makes_no_sense(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    said = 'url = "https://shop.example/v1"\nopenapi = "shop.yaml"\n'
    (empty / "remit.toml").write_text(f"[leaks]\nrules = true\n[service.shop]\n{said}")
    status_of(["doctor", "--json"])
    assert "`shop.yaml` cannot be read" in advice(capsys)["services"].replace(f"{empty}/", "")
    (empty / "shop.yaml").write_text(
        "openapi: 3.0.0\npaths: { /orders: { get: { operationId: orders } } }\n"
    )
    status_of(["doctor", "--json"])
    told = advice(capsys)
    assert told["service shop"] == "https://shop.example/v1, 1 operations"
    assert "upstreams" not in told
    assert "credentials" in told["leak rules"]


@pytest.mark.parametrize("client", ["claude-code", "claude-desktop", "cursor", "vscode", "codex"])
def test_connect_prints_configuration_that_its_client_can_parse(
    empty: Path, client: str, capsys: pytest.CaptureFixture[str]
):
    (empty / "remit.toml").write_text('[upstream.git]\ncommand = ["git-mcp"]\n')
    assert status_of(["connect", client, "--agent", "reader", "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["configuration"]
    parsed = tomllib.loads(text) if client == "codex" else json.loads(text)
    (servers,) = parsed.values()
    args = servers["git"]["args"]
    config = str(empty / "remit.toml")
    assert args[args.index("--") + 2 :] == [
        *("gateway", "stdio", "--config", config, "--upstream", "git")
    ]
    assert args[: args.index("--")] == ["run", "--config", config, "--agent", "reader"]
    for program in (servers["git"]["command"], args[args.index("--") + 1]):
        assert Path(program).is_absolute()
        assert os.access(program, os.X_OK)


def test_connect_names_an_executable_that_runs_from_anywhere_without_a_path(empty: Path):
    (empty / "away").mkdir()
    said = subprocess.run(
        [*connect.executable(), "--version"],
        cwd=empty / "away",
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == __version__


def test_connect_names_the_executable_that_it_was_called_by(
    empty: Path, monkeypatch: pytest.MonkeyPatch
):
    program = empty / "remit"
    program.write_text("")
    monkeypatch.setattr(sys, "argv", ["./remit"])
    assert connect.executable() != [str(program)]
    program.chmod(0o755)
    assert connect.executable() == [str(program)]
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setattr(sys, "executable", str(empty / "bin" / "python"))
    assert connect.executable() == [str(empty / "bin" / "python"), "-m", "remit.cli.main"]


def test_connect_prints_every_upstream_or_one_and_says_which_there_are(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    (empty / "remit.toml").write_text(
        '[upstream.git]\ncommand = ["g"]\n[upstream.helpdesk]\ncommand = ["h"]\n'
    )
    assert status_of(["connect", "cursor", "--agent", "reader"]) == 0
    captured = capsys.readouterr()
    assert {'"git"', '"helpdesk"'} <= set(re.findall(r'"\w+"', captured.out))
    assert "warning: no authority answers" in captured.err
    assert status_of(["connect", "cursor", "--agent", "reader", "--upstream", "helpdsk"]) == 2
    assert "did you mean `helpdesk`?" in capsys.readouterr().err


def advice(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {c["what"]: c["said"] for c in json.loads(capsys.readouterr().out)["checks"]}


def test_doctor_sends_nobody_to_write_templates_into_the_package(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    (empty / "remit.toml").write_text("")
    assert status_of(["doctor", "--json"]) == 1
    assert "[policy] templates" in advice(capsys)["templates"]
    (empty / "t").mkdir()
    (empty / "remit.toml").write_text('[policy]\ntemplates = "t"\n')
    assert status_of(["doctor", "--json"]) == 1
    assert str(empty / "t") in advice(capsys)["templates"]


def test_doctor_says_that_a_folder_of_templates_is_not_there_and_how_many_lie_in_it(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    (empty / "remit.toml").write_text('[policy]\ntemplates = "t"\n')
    assert status_of(["doctor", "--json"]) == 1
    assert advice(capsys)["templates"].endswith(f"{empty / 't'}, which is no folder: make it")
    (empty / "t").mkdir()
    (empty / "t" / "read.toml").write_text('purpose = "Read"\n[[capability]]\ntool = "desk/read"\n')
    status_of(["doctor", "--json"])
    assert advice(capsys)["templates"] == "1 in force"


def test_init_says_the_next_steps_for_the_file_that_it_wrote(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    assert status_of(["init"]) == 0
    assert "`remit up`" in capsys.readouterr().out
    assert status_of(["init", "of mine.toml"]) == 0
    said = capsys.readouterr().out
    assert "`remit doctor --config 'of mine.toml'`" in said
    assert "`remit up --config 'of mine.toml'`" in said


def test_doctor_says_what_is_wrong_with_a_file_a_folder_a_port_and_a_policy(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    (empty / "remit.toml").write_text("[athority]\n")
    assert status_of(["doctor", "--json"]) == 1
    assert "athority" in advice(capsys)["configuration"]
    (empty / ".remit").mkdir(mode=0o755)
    (empty / "b").mkdir()
    (empty / "b" / "bad.cedar").write_text("permit (")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (empty / "remit.toml").write_text(
            f'[authority]\nlisten = "127.0.0.1:{port}"\n[policy]\nbundle = "b"\n'
        )
        assert status_of(["doctor", "--json"]) == 1
    said = advice(capsys)
    assert "chmod 700" in said["state"]
    assert "bad.cedar" in said["policy"]
    assert "change `listen`" in said["running"]


@pytest.mark.parametrize("listen", ["[::1]:1", "localhost:1", "127.0.0.1:0"])
def test_doctor_takes_every_address_that_the_configuration_takes(
    empty: Path, listen: str, capsys: pytest.CaptureFixture[str]
):
    (empty / "remit.toml").write_text(f'[authority]\nlisten = "{listen}"\n')
    status_of(["doctor", "--json"])
    assert advice(capsys)["running"].startswith("not yet")


def test_connect_is_toml_and_python_whatever_the_folder_is_called(
    empty: Path, capsys: pytest.CaptureFixture[str]
):
    folder = empty / '\N{GRINNING FACE} "quoted" \\ é'
    folder.mkdir()
    (folder / "remit.toml").write_text('[upstream.git]\ncommand = ["git-mcp"]\n')
    asked = ["--agent", "reader", "--json", "--config", str(folder / "remit.toml")]
    assert status_of(["connect", "codex", *asked]) == 0
    servers = tomllib.loads(json.loads(capsys.readouterr().out)["configuration"])["mcp_servers"]
    assert str(folder / "remit.toml") in servers["git"]["args"]
    assert status_of(["connect", "python", *asked]) == 0
    compile(json.loads(capsys.readouterr().out)["configuration"], "agent.py", "exec")


@pytest.mark.parametrize(
    "tokens",
    [
        ["evidence", "verify", "no-such.pack"],
        ["evidence", "verify", "."],
        ["policy", "check", "no-such"],
        ["policy", "test", "no-such"],
        ["init", "no-such/remit.toml"],
        ["connect", "cursor", "--agent", "a"],
        ["connect", "bogus", "--agent", "a"],
        ["agent", "list", "--config", "no-such.toml"],
        ["task", "list", "--limit", "many"],
        ["task", "open", "t", "--agent", "a", "-f", "no-such.toml"],
    ],
    ids=" ".join,
)
def test_what_the_caller_named_and_is_not_there_is_2_and_one_json_document(
    empty: Path, tokens: list[str], capsys: pytest.CaptureFixture[str]
):
    assert status_of([*tokens, "--json"]) == 2
    json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff" * 100, b"[" * 100_000])
def test_no_garbage_verifies_and_none_breaks_the_verifier(
    empty: Path, data: bytes, capsys: pytest.CaptureFixture[str]
):
    (empty / "a.pack").write_bytes(data)
    assert status_of(["evidence", "verify", "a.pack", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "proof"


def test_a_pack_under_another_key_is_4(empty: Path, capsys: pytest.CaptureFixture[str]):
    pack = next((Path(__file__).parents[2] / "vectors" / "proof").glob("honest_pack*"))
    for vkey in ("", "nonsense", "remit.local/log+00000000+AAAA"):
        assert status_of(["evidence", "verify", str(pack), "--vkey", vkey, "--json"]) in {2, 4}
        assert json.loads(capsys.readouterr().out)["error"]["message"]
