"""Keys that the configuration says are kept elsewhere: named, opened, watched, made."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from remit import plugins
from remit.app.config import Loaded, parse
from remit.app.own_keys import LOOK_SECONDS, OwnKeys, look_at_key, make_key
from remit.keystore.ports import Algorithm
from remit.model.errors import ConfigError
from remit.testing.keys import MemoryKey

MADE: dict[str, MemoryKey] = {}


def provider(uri: str, algorithm: Algorithm) -> MemoryKey:
    """Return the key of a URI, as an outsider's provider would."""
    if uri == "memory:":
        raise ConfigError("a memory URI names a key")
    return MADE.setdefault(uri, MemoryKey(algorithm))


@pytest.fixture(autouse=True)
def provided(monkeypatch: pytest.MonkeyPatch) -> None:
    MADE.clear()
    found = [
        EntryPoint("memory", f"{__name__}:provider", plugins.KEY_PROVIDERS),
        EntryPoint("absent", "remit.no_such_module:Key", plugins.KEY_PROVIDERS),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: found if group else ())
    monkeypatch.setattr(
        EntryPoint,
        "load",
        lambda self: provider if self.name == "memory" else _missing(),
    )


def _missing() -> Any:
    raise ModuleNotFoundError("no", name="cloud")


def loaded(tmp_path: Path, log: str | None = None, **brokers: Any) -> Loaded:
    document: dict[str, Any] = {"broker": brokers}
    if log is not None:
        document["keys"] = {"log": log}
    return Loaded(config=parse(document, "remit.toml"), folder=tmp_path, source=None)


async def test_without_a_uri_the_key_is_a_file_and_nothing_is_loaded(tmp_path: Path):
    keys = await OwnKeys.open(loaded(tmp_path))
    assert (keys.log, keys.loaded, keys.health()) == (None, [], None)
    assert loaded(tmp_path).keys_elsewhere == []


async def test_what_was_loaded_for_a_key_is_said_as_evidence(tmp_path: Path):
    keys = await OwnKeys.open(loaded(tmp_path, "memory:log"))
    assert keys.log is not None
    (step,) = keys.loaded
    assert step.kind == "plugin.loaded"
    assert (step.body["name"], step.body["kind"]) == ("[keys] log", "memory")


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("keys/log.key", "is a URI"),
        ("", "is a URI"),
        ("MEMORY:log", "is a URI"),
        ("../x:log", "is a URI"),
        ("cloud:log", r"no kind `cloud`; these are installed: absent, memory"),
        ("absent:log", r"needs a package that is not here \(`cloud`\)"),
        ("memory:", "a memory URI names a key"),
    ],
)
async def test_a_uri_that_nobody_takes_is_refused_by_its_setting(
    tmp_path: Path, uri: str, why: str
):
    with pytest.raises(ConfigError, match=rf"^`\[keys\] log`.*{why}"):
        await OwnKeys.open(loaded(tmp_path, uri))


async def test_a_start_waits_for_no_token_that_is_away(tmp_path: Path):
    provider("memory:log", Algorithm.ED25519).away = True
    with pytest.raises(ConfigError, match="there is no token"):
        await OwnKeys.open(loaded(tmp_path, "memory:log"))


async def test_an_authoritys_key_is_looked_at_now_and_then_and_while_it_is_away():
    now = 0.0
    keys = OwnKeys(monotonic=lambda: now)
    keys.authority("`ca_key`", "memory:ca")
    key = MADE["memory:ca"]
    key.away = True
    await keys.look()
    assert keys.health() is None, "it is not asked more often than has to be"
    now += LOOK_SECONDS
    await keys.look()
    assert keys.health() == "`ca_key`: there is no token"
    key.away = False
    await keys.look()
    assert keys.health() is None


def test_keys_are_made_by_their_name_and_once(tmp_path: Path):
    config = loaded(tmp_path, "memory:log", hosts={"kind": "ssh", "ca_key": "memory:ca"})
    assert config.keys_elsewhere == ["log", "broker.hosts"]
    for which, uri, algorithm in (
        ("log", "memory:log", Algorithm.ED25519),
        ("broker.hosts", "memory:ca", Algorithm.ES256),
    ):
        provider(uri, algorithm).missing = True
        made = make_key(config, which)
        assert look_at_key(config, which) == made
        with pytest.raises(ConfigError, match="already"):
            make_key(config, which)
    assert look_at_key(config, "log").startswith("remit.local/log+")


@pytest.mark.parametrize("which", ["", "vault", "hosts", "broker.", "broker.other", "log.key"])
def test_no_other_name_is_a_key(tmp_path: Path, which: str):
    config = loaded(tmp_path, "memory:log", hosts={"kind": "ssh", "ca_key": "memory:ca"})
    with pytest.raises(ConfigError, match=r"a key is `log`, or `broker\.NAME`"):
        make_key(config, which)


def test_a_key_that_is_a_file_is_not_made_elsewhere(tmp_path: Path):
    config = loaded(tmp_path, None, hosts={"kind": "ssh"})
    for which in ("log", "broker.hosts"):
        with pytest.raises(ConfigError, match="write a URI there"):
            make_key(config, which)
