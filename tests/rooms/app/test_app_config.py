"""The configuration: strict, and the template that `remit init` writes is true of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from remit.app.compose import compose
from remit.app.config import Config, Loaded, load, parse
from remit.app.sections import OperationSection, ServiceSection, UpstreamSection
from remit.app.template import TEMPLATE
from remit.model.errors import ConfigError

WRONG = {
    "unknown_table": ({"athority": {}}, "athority"),
    "unknown_key": ({"authority": {"sate": "x"}}, "sate"),
    "wrong_type": ({"authority": {"state": 3}}, "state"),
    "listen_without_port": ({"authority": {"listen": "127.0.0.1"}}, "host:port"),
    "listen_port_too_high": ({"authority": {"listen": "127.0.0.1:70000"}}, "host:port"),
    "listen_port_in_other_digits": ({"authority": {"listen": "127.0.0.1:²"}}, "host:port"),
    "listen_port_endless": ({"authority": {"listen": "127.0.0.1:" + "9" * 5000}}, "host:port"),
    "listen_v6_without_brackets": ({"authority": {"listen": "::1:7480"}}, "host:port"),
    "listen_on_a_name": ({"authority": {"listen": "example.com:7480"}}, "allow_remote"),
    "trust_domain_in_capitals": ({"authority": {"trust_domain": "Corp"}}, "trust_domain"),
    "trust_domain_as_uri": ({"authority": {"trust_domain": "spiffe://a"}}, "trust_domain"),
    "url_without_scheme": ({"authority": {"url": "remit.example.com"}}, "`url`"),
    "tls_without_key": ({"authority": {"tls": {"cert": "a"}}}, "key"),
    "upstream_url": ({"upstream": {"x": {"url": "file:///etc/passwd"}}}, "`url`"),
    "upstream_timeout_is_no_number": (
        {"upstream": {"x": {"command": ["a"], "timeout_seconds": float("nan")}}},
        "above zero",
    ),
    "upstream_pin": ({"upstream": {"x": {"command": ["a"], "pin": "never"}}}, "pin"),
    "command_as_text": ({"upstream": {"x": {"command": "a b"}}}, "command"),
    "tool_key": ({"upstream": {"x": {"command": ["a"], "tool": {"t": {"safe": True}}}}}, "safe"),
    "tool_confidentiality": (
        {"upstream": {"x": {"command": ["a"], "tool": {"t": {"confidentiality": "secret"}}}}},
        "confidentiality",
    ),
    "revocation_without_time": ({"leases": {"revoke_seconds": 0}}, "`revoke_seconds` is from 1 to"),
    "revocation_that_may_hang": ({"leases": {"revoke_seconds": 601}}, "from 1 to 600"),
    "quarantine_of_no_number": ({"leases": {"quarantine_seconds": float("nan")}}, "from 1 to"),
    "quarantine_as_text": ({"leases": {"quarantine_seconds": "30"}}, "quarantine_seconds"),
    "quarantine_shorter_than_a_mint": (
        {"leases": {"quarantine_seconds": 20}, "limits": {"issue_seconds": 21}},
        "a mint may take 21",
    ),
    "limit_of_nothing": ({"limits": {"decide_seconds": 0}}, "above zero"),
    "limit_below_nothing": ({"limits": {"body_bytes": -1}}, "above zero"),
    "limit_without_end": ({"limits": {"settle_seconds": float("inf")}}, "above zero"),
    "approvals_that_are_late_at_once": ({"approvals": {"expires_seconds": 0}}, "above zero"),
    "workload_without_selector": (
        {"workload": [{"agent": "a", "selectors": []}]},
        "every process",
    ),
    "issuer_without_audience": ({"issuer": [{"issuer": "https://i"}]}, "audience"),
    "federate_without_bundle": ({"federate": [{"trust_domain": "a"}]}, "bundle"),
    "self_approval_as_text": ({"approvals": {"self_approval": "yes"}}, "self_approval"),
    "listen_to_everyone": ({"authority": {"listen": "0.0.0.0:7480"}}, "allow_remote"),
    "upstream_of_nothing": ({"upstream": {"x": {}}}, "either `command` or `url`"),
    "upstream_of_both": (
        {"upstream": {"x": {"command": ["a"], "url": "http://h/"}}},
        "either `command` or `url`",
    ),
    "upstream_name": ({"upstream": {"X Y": {"command": ["a"]}}}, "X Y"),
    "service_of_nothing": ({"service": {"x": {"url": "https://h"}}}, "what may be called"),
    "service_without_url": ({"service": {"x": {"openapi": "a"}}}, "url"),
    "service_name": ({"service": {"X": {"url": "https://h", "openapi": "a"}}}, "a-z 0-9"),
    "service_named_as_an_upstream": (
        {
            "service": {"x": {"url": "https://h", "openapi": "a"}},
            "upstream": {"x": {"command": ["a"]}},
        },
        "an upstream has this name",
    ),
    "service_operations_of_no_document": (
        {
            "service": {
                "x": {
                    "url": "https://h",
                    "operations": ["a"],
                    "operation": [{"name": "a", "method": "GET", "path": "/"}],
                }
            }
        },
        "`operations` chooses",
    ),
    "service_method": (
        {
            "service": {
                "x": {
                    "url": "https://h",
                    "operation": [{"name": "a", "method": "TRACE", "path": "/"}],
                }
            }
        },
        "TRACE",
    ),
    "service_timeout": (
        {"service": {"x": {"url": "https://h", "openapi": "a", "timeout_seconds": -1}}},
        "above zero",
    ),
    "service_credential_in_the_environment": (
        {
            "broker": {"b": {"kind": "jwt"}},
            "service": {
                "x": {
                    "url": "https://h",
                    "openapi": "a",
                    "credential": {"broker": "b", "env": {"A": "{token}"}},
                }
            },
        },
        "into a `header`",
    ),
    "service_credential_of_nobody": (
        {"service": {"x": {"url": "https://h", "openapi": "a", "credential": {"broker": "b"}}}},
        "no broker `b`",
    ),
    "leaks_rules_as_text": ({"leaks": {"rules": "yes"}}, "rules"),
    "environment": ({"upstream": {"x": {"command": ["a"], "environment": "qa"}}}, "environment"),
    "timeout": ({"upstream": {"x": {"command": ["a"], "timeout_seconds": 0}}}, "above zero"),
    "rule_of_nobody": (
        {"issuer": [{"issuer": "https://i", "audience": "a", "rule": [{"claims": {"a": "b"}}]}]},
        "either `agent` or `person`",
    ),
    "rule_for_everyone": (
        {
            "issuer": [
                {"issuer": "https://i", "audience": "a", "rule": [{"claims": {}, "agent": "x"}]}
            ]
        },
        "matches every token",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_configuration_is_refused_and_says_where(name: str):
    document, said = WRONG[name]
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse(document, "remit.toml")


def test_the_template_is_valid_as_it_is_written():
    assert parse(tomllib.loads(TEMPLATE), "template") == Config()


EXAMPLES = {
    "url",
    "tls",
    "issuer",
    "federate",
    "workload",
    "upstream",
    "service",
    "bundle",
    "templates",
}
"""What the template shows by an example; every other setting is shown with its default."""


def uncommented() -> Config:
    shown = re.sub(r"(?m)^# ?(?=\[|[a-z_]+ = )", "", TEMPLATE)
    return parse(tomllib.loads("\n".join(x for x in shown.splitlines() if x[:1] != "#")), "shown")


def sections(kind: object) -> set[type[msgspec.Struct]]:
    """Return every table's type that a configuration may hold."""
    found: set[type[msgspec.Struct]] = set()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        found |= {kind, *(s for f in msgspec.structs.fields(kind) for s in sections(f.type))}
    for inner in get_args(kind):
        found |= sections(inner)
    return found


def test_every_setting_stands_in_the_template():
    kinds = sections(Config)
    assert len(kinds) > 10
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            pattern = rf"(?m)(\b{field.encode_name} = |\[+(\w+\.)*{field.encode_name}[\].])"
            assert re.search(pattern, TEMPLATE), f"{kind.__name__}.{field.encode_name}"


SETTING = re.compile(r"(?:# ?)?(?P<key>[a-z_]+) = ")
HEAD = re.compile(r"(?:# ?)?\[+(?P<table>[\w.-]+)\]+")


def test_every_setting_in_the_template_is_explained_beside_it_or_above_it():
    unexplained, above = [], False
    for line in TEMPLATE.splitlines():
        setting, head = SETTING.match(line), HEAD.match(line)
        if setting:
            if not above and "  # " not in line:
                unexplained.append(line)
        elif not head:
            # Words hold for the settings below them, until a line of nothing.
            above = len(line) > 2
    assert unexplained == []


def test_what_is_no_default_in_the_template_is_called_an_example():
    usual = {"authority", "policy", "approvals", "delegation", "leaks", "leases", "limits"}
    block: list[str] = []
    for line in TEMPLATE.splitlines():
        head = HEAD.match(line)
        if head and head["table"] not in usual and not head["table"].endswith(".rule"):
            assert any(each.startswith("# Example: ") for each in block), line
        block = [] if not line or head else [*block, line]


def test_with_every_setting_uncommented_the_template_is_valid():
    config = uncommented()
    assert config.upstreams.keys() == {"git", "crm", "books"}
    assert config.upstreams["git"].tool.keys() == {"git_commit"}
    assert config.services.keys() == {"payments"}
    assert config.workloads
    assert config.issuers[0].rules
    assert config.federates
    assert config.authority.tls is not None


def test_what_the_template_shows_is_the_default():
    config, usual = uncommented(), Config()
    for name in ("authority", "policy", "approvals", "leaks", "leases", "limits"):
        shown, default = getattr(config, name), getattr(usual, name)
        for key in set(shown.__struct_fields__) - EXAMPLES:
            assert getattr(shown, key) == getattr(default, key), f"{name}.{key}"
    git = config.upstreams["git"]
    for key in set(git.__struct_fields__) - {"command", "env", "cwd", "tool"}:
        assert getattr(git, key) == getattr(UpstreamSection(), key), key
    service, plain = config.services["payments"], ServiceSection(url="")
    examples = {"url", "ca_file", "openapi", "operations", "operation", "tool", "credential"}
    for key in set(service.__struct_fields__) - examples:
        assert getattr(service, key) == getattr(plain, key), key
    (operation,) = service.operation
    bare = OperationSection(name="", method="GET", path="")
    for key in set(operation.__struct_fields__) - {"name", "method", "path", "body"}:
        assert getattr(operation, key) == getattr(bare, key), key


def test_paths_start_from_the_folder_of_the_file_that_names_them(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "remit.toml").write_text('[authority]\nstate = "../s"\n')
    loaded = load(tmp_path / "sub" / "remit.toml")
    assert loaded.state == tmp_path / "s"
    assert loaded.path("/absolute") == Path("/absolute")


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:7480", "::1", 7480), ("localhost:1", "localhost", 1)],
)
def test_an_address_is_read_as_it_is_written(listen: str, host: str, port: int):
    loaded = Loaded(
        config=parse({"authority": {"listen": listen}}, "x"), folder=Path(), source=None
    )
    assert (loaded.host, loaded.port) == (host, port)
    assert loaded.url == f"http://{listen}"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[authority", b"a = 1\na = 2\n", b"\x00"])
def test_a_file_that_is_no_toml_is_said_so(tmp_path: Path, data: bytes):
    (tmp_path / "remit.toml").write_bytes(data)
    with pytest.raises(ConfigError, match="TOML"):
        load(tmp_path / "remit.toml")


async def test_an_authority_that_could_not_be_composed_leaves_the_state_free(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bad.cedar").write_text("permit (")
    (tmp_path / "remit.toml").write_text("[authority]\nstate = 's'\n[policy]\nbundle = 'b'\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"bad\.cedar"):
            await compose(load(tmp_path / "remit.toml"))
    (tmp_path / "remit.toml").write_text("[authority]\nstate = 's'\n")
    house = await compose(load(tmp_path / "remit.toml"))
    await house.close()


async def test_a_second_authority_on_the_same_state_is_refused(tmp_path: Path):
    (tmp_path / "remit.toml").write_text("[authority]\nstate = 's'\n")
    first = await compose(load(tmp_path / "remit.toml"))
    try:
        with pytest.raises(ConfigError):
            await compose(load(tmp_path / "remit.toml"))
    finally:
        await first.close()
    again = await compose(load(tmp_path / "remit.toml"))
    await again.close()


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "nothing.toml")
