"""The GitHub broker's configuration and grants, and a server that is anything but GitHub."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from joserfc.jwk import RSAKey
from scripted_target import Script, lab, surroundings

from remit.credentials.brokers.github.broker import GitHubBroker
from remit.credentials.brokers.github.options import check_grant
from remit.model.errors import BrokerError, ConfigError, NotMintedError

KEY = RSAKey.generate_key(2048).as_pem(private=True).decode()
OPTIONS: dict[str, Any] = {
    "client_id": "Iv1.abcdef",
    "private_key": "env:GITHUB_APP_KEY",
    "installation_id": 1,
}
GRANT: dict[str, Any] = {"repositories": ["site"], "permissions": {"contents": "read"}}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_APP_KEY", KEY)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_id": "a b"}, "client_id"),
        ({"client_id": 12}, "client_id"),
        ({"installation_id": 0}, "installation_id"),
        ({"installation_id": "1/../2"}, "installation_id"),
        ({"installation_id": None}, "organization"),
        ({"organization": "corp"}, "organization"),
        ({"installation_id": None, "organization": "../users/x"}, "organization"),
        ({"installation_id": None, "organization": "a?b"}, "organization"),
        ({"api_url": "http://ghe.example/api/v3"}, "https"),
        ({"api_url": "https://u:p@ghe.example"}, "api_url"),
        ({"api_url": "https://ghe.example/a?b"}, "api_url"),
        ({"api_url": "https://ghe.example/../x y"}, "api_url"),
        pytest.param({"private_key": KEY}, "private_key", id="a private key in clear"),
        ({"private_key": None}, "private_key_file"),
        ({"private_key": "env:NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE"),
        ({"private_key_file": "x"}, "private_key"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"token": "ghp_x"}, "token"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_options_that_make_no_sense_are_refused_and_name_the_table_and_the_key(
    tmp_path: Path, changes: dict[str, Any], said: str
):
    given = {key: value for key, value in {**OPTIONS, **changes}.items() if value is not None}
    with pytest.raises(ConfigError) as raised:
        GitHubBroker("github", given, surroundings(tmp_path))
    assert "[broker.github]" in str(raised.value)
    assert said in str(raised.value)
    assert KEY.splitlines()[1] not in str(raised.value)


HOSTILE_NAMES = [
    "",
    ".",
    "..",
    "corp/site",
    "site\n",
    "s ite",
    "sité",
    "*",
    "x" * 101,
    'a", "b',
    "site?x",
    "{args.repo",
    None,
    7,
    ["site"],
]


@pytest.mark.parametrize(
    "grant",
    [
        {},
        {"repositories": ["site"]},
        {"repositories": ["site"], "permissions": {}},
        {"permissions": {"contents": "read"}},
        {**GRANT, "repositories": []},
        {**GRANT, "all_repositories": True},
        {**GRANT, "repository_ids": [1]},
        {**GRANT, "repositories": ["x"] * 501},
        {"repository_ids": [0], "permissions": {"contents": "read"}},
        {"repository_ids": ["1"], "permissions": {"contents": "read"}},
        {"repository_ids": [True], "permissions": {"contents": "read"}},
        {**GRANT, "permissions": {"contens": "read"}},
        {**GRANT, "permissions": {"contents": "admin"}},
        {**GRANT, "permissions": {"contents": "all"}},
        {**GRANT, "permissions": {"contents": ""}},
        {**GRANT, "permissions": {"contents": "{args.level}"}},
        {**GRANT, "permissions": {"{args.what}": "read"}},
        {**GRANT, "permissions": "contents"},
        {**GRANT, "repositories": "{args.a}{args.b}"},
        {**GRANT, "expires": 60},
        *({**GRANT, "repositories": [name]} for name in HOSTILE_NAMES),
    ],
    ids=lambda grant: repr(grant)[:80],
)
def test_grants_that_make_no_sense_are_refused_when_they_are_read(grant: dict[str, Any]):
    with pytest.raises(ConfigError):
        check_grant(grant)


@pytest.mark.parametrize(
    "grant",
    [
        {**GRANT, "repositories": ["{args.repo}"]},
        {**GRANT, "repositories": "{args.repos}"},
        {**GRANT, "permissions": {"repository_projects": "admin", "issues": "write"}},
        {"all_repositories": True, "permissions": {"metadata": "read"}},
    ],
    ids=repr,
)
def test_grants_that_make_sense_are_taken(grant: dict[str, Any]):
    check_grant(grant)


# --- a server that answers as a test says ---


@pytest.fixture
async def make(tmp_path: Path, script: Script) -> AsyncIterator[Callable[..., GitHubBroker]]:
    async with aiohttp.ClientSession(trust_env=False) as http:

        def one(**options: Any) -> GitHubBroker:
            given = {**OPTIONS, "api_url": script.url, **options}
            return GitHubBroker("github", given, surroundings(tmp_path, http))

        yield one


@pytest.mark.parametrize(
    ("status", "body", "certain"),
    [
        (401, b'{"message": "k3y"}', True),
        (404, b"<html>k3y", True),
        (422, b"", True),
        (500, b'{"message": "k3y"}', False),
        (200, b'{"token": "k3y"}', False),
        (201, b"", False),
        (201, b"[]", False),
        (201, b"k3y", False),
        pytest.param(201, b"[" * 100_000, False, id="deep"),
        (201, b'{"token": ""}', False),
        (201, b'{"token": 7}', False),
        (201, '{"token": "k3y\u00e9"}'.encode(), False),
        (302, b"", False),
    ],
)
async def test_only_a_refusal_says_that_nothing_was_minted_and_no_answers_text_is_told(
    make: Callable[..., GitHubBroker], script: Script, status: int, body: bytes, certain: bool
):
    script.answers = [(status, body)]
    script.headers = {"Location": "https://evil.example/"} if status == 302 else {}
    broker = make()
    with pytest.raises(BrokerError) as raised:
        await broker.issue(lab(broker, GRANT).order())
    assert isinstance(raised.value, NotMintedError) is certain
    assert "k3y" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(script.asked) == 1, "no redirect is followed with a token"


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
async def test_an_argument_that_is_no_repository_asks_nothing_of_github(
    make: Callable[..., GitHubBroker], script: Script, name: Any
):
    broker = make()
    with pytest.raises(NotMintedError, match="grant"):
        await broker.issue(lab(broker, GRANT).order(grant={**GRANT, "repositories": [name]}))
    assert not script.asked


async def test_an_enterprise_servers_path_is_kept(
    make: Callable[..., GitHubBroker], script: Script
):
    script.answers = [(404, b"")]
    broker = make(api_url=f"{script.url}/api/v3/")
    with pytest.raises(NotMintedError):
        await broker.issue(lab(broker, GRANT).order())
    assert [path for _, path, _ in script.asked] == ["/api/v3/app/installations/1/access_tokens"]


@pytest.mark.parametrize("status", [200, 204, 301, 404, 500])
async def test_only_a_401_confirms_that_a_token_is_gone(
    make: Callable[..., GitHubBroker], script: Script, status: int
):
    script.answers = [(status, b"")]
    broker = make()
    with pytest.raises(BrokerError):
        await broker.revoke(lab(broker, GRANT).order().lease, "ghs_kept")
    script.answers = [(401, b"")]
    assert (await broker.revoke(lab(broker, GRANT).order().lease, "ghs_kept")).confirmed


async def test_a_long_answer_is_read_to_its_end_and_one_without_an_end_is_not(
    make: Callable[..., GitHubBroker], script: Script, monkeypatch: pytest.MonkeyPatch
):
    answer = {
        "token": "ghs_0123456789",
        "expires_at": "2030-01-01T00:00:00Z",
        "permissions": {"contents": "read"},
        "repository_selection": "selected",
        "repositories": [{"id": 1, "name": "site", "padding": "x" * 3_000_000}],
    }
    script.answers = [(201, json.dumps(answer).encode())]
    broker = make()
    assert (await broker.issue(lab(broker, GRANT).order())).values["token"] == "ghs_0123456789"
    monkeypatch.setattr("remit.credentials.brokers.github.api._MOST_BYTES", 1_000_000)
    broker = make()
    with pytest.raises(BrokerError, match="1000000 bytes") as raised:
        await broker.issue(lab(broker, GRANT).order())
    assert not isinstance(raised.value, NotMintedError)
