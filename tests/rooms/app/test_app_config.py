"""The configuration: strict, and the template that `remit init` writes is true of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from remit.app.compose import compose
from remit.app.config import Config, load, parse
from remit.app.template import TEMPLATE
from remit.model.errors import ConfigError

WRONG = {
    "unknown_table": ({"athority": {}}, "athority"),
    "unknown_key": ({"authority": {"sate": "x"}}, "sate"),
    "wrong_type": ({"authority": {"state": 3}}, "state"),
    "listen_without_port": ({"authority": {"listen": "127.0.0.1"}}, "host:port"),
    "listen_port_too_high": ({"authority": {"listen": "127.0.0.1:70000"}}, "host:port"),
    "listen_to_everyone": ({"authority": {"listen": "0.0.0.0:7480"}}, "allow_remote"),
    "upstream_of_nothing": ({"upstream": {"x": {}}}, "either `command` or `url`"),
    "upstream_of_both": (
        {"upstream": {"x": {"command": ["a"], "url": "http://h/"}}},
        "either `command` or `url`",
    ),
    "upstream_name": ({"upstream": {"X Y": {"command": ["a"]}}}, "X Y"),
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


def test_the_template_names_every_setting_and_every_named_setting_is_valid():
    shown = re.sub(r"(?m)^# ?(?=\[|[a-z_]+ = )", "", TEMPLATE)
    tables = tomllib.loads(_without_prose(shown))
    config = parse({**tables, "authority": {**tables["authority"], "allow_remote": True}}, "shown")
    assert config.upstreams.keys() == {"git", "crm"}
    for section in (type(config), *(type(getattr(config, f)) for f in _sections(config))):
        for field in msgspec.structs.fields(section):
            assert re.search(rf"\b{field.encode_name}\b", TEMPLATE), field.encode_name


def _sections(config: Config) -> list[str]:
    return [
        field
        for field in config.__struct_fields__
        if isinstance(getattr(config, field), msgspec.Struct)
    ]


def _without_prose(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


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
