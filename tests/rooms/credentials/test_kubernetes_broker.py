"""The Kubernetes broker's configuration and grants, and a server that is no API server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from scripted_target import Script, lab, surroundings

from remit.credentials.brokers.kubernetes.broker import KubernetesBroker
from remit.credentials.brokers.kubernetes.options import read_grant
from remit.model.errors import BrokerError, ConfigError, NotMintedError

OPTIONS: dict[str, Any] = {
    "url": "https://127.0.0.1:6443",
    "namespace": "agents",
    "token": "env:KUBE_TOKEN",
}


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_TOKEN", "the-admins-own-token")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "http://kube.example:6443"}, "https"),
        ({"url": "https://user:word@kube.example"}, "url"),
        ({"url": "https://kube.example/?x"}, "url"),
        ({"url": "kube.example"}, "url"),
        ({"namespace": ""}, "namespace"),
        ({"namespace": "Agents"}, "namespace"),
        ({"namespace": "agents/secrets"}, "namespace"),
        ({"namespace": "agents\n"}, "namespace"),
        ({"namespace": "x" * 64}, "namespace"),
        ({"token": "eyJ.in.clear"}, "token"),
        ({"token": None}, "token_file"),
        ({"token_file": "x"}, "token"),
        ({"ca_file": "no-such-file"}, "ca_file"),
        ({"ca_file": "not-a-certificate"}, "ca_file"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"insecure": True}, "insecure"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_options_that_make_no_sense_are_refused_and_name_the_table_and_the_key(
    tmp_path: Path, changes: dict[str, Any], said: str
):
    (tmp_path / "not-a-certificate").write_text("hello")
    given = {key: value for key, value in {**OPTIONS, **changes}.items() if value is not None}
    with pytest.raises(ConfigError) as raised:
        KubernetesBroker("kube", given, surroundings(tmp_path))
    assert "[broker.kube]" in str(raised.value)
    assert said in str(raised.value)
    assert "eyJ.in.clear" not in str(raised.value)


@pytest.mark.parametrize(
    "grant",
    [
        {},
        {"service_account": ""},
        {"service_account": "Deployer"},
        {"service_account": "../secrets/x"},
        {"service_account": "a..b"},
        {"service_account": "a/token?x="},
        {"service_account": "dépl"},
        {"service_account": "x" * 254},
        {"service_account": "d\n"},
        {"service_account": "{args.account}"},
        {"service_account": "{task.template}"},
        {"service_account": ["d"]},
        {"service_account": "d", "audiences": "vault"},
        {"service_account": "d", "audiences": [""]},
        {"service_account": "d", "audiences": ["{args.audience}"]},
        {"service_account": "d", "audiences": ["a b"]},
        {"service_account": "d", "audiences": ["x" * 257]},
        {"service_account": "d", "audiences": [f"a{n}" for n in range(9)]},
        {"service_account": "d", "namespace": "kube-system"},
    ],
    ids=lambda grant: repr(grant)[:60],
)
def test_grants_that_make_no_sense_are_refused_when_they_are_read(grant: dict[str, Any]):
    with pytest.raises(ConfigError):
        read_grant(grant)


# --- a server that answers as a test says ---


@pytest.fixture
async def make(tmp_path: Path, script: Script) -> AsyncIterator[Callable[..., KubernetesBroker]]:
    async with aiohttp.ClientSession(trust_env=False) as http:

        def one(**options: Any) -> KubernetesBroker:
            given = {**OPTIONS, "url": script.url, **options}
            return KubernetesBroker("kube", given, surroundings(tmp_path, http))

        yield one


GRANT = {"service_account": "deployer"}
MADE = (201, b'{"metadata": {"uid": "u-1"}}')


@pytest.mark.parametrize(
    ("answer", "certain"),
    [
        ((401, b'{"reason": "Unauthorized", "message": "k3y"}'), True),
        ((403, b'{"reason": "Forbidden k3y"}'), True),
        ((404, b"<html>k3y"), True),
        ((500, b"k3y"), False),
        ((200, b"{}"), False),
        ((201, b""), False),
        ((201, b"[]"), False),
        ((201, b'{"metadata": "k3y"}'), False),
        ((201, b'{"metadata": {"uid": ""}}'), False),
        ((201, b"[" * 100_000), False),
        ((302, b""), False),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_only_a_refusal_says_that_nothing_was_minted_and_no_answers_text_is_told(
    make: Callable[..., KubernetesBroker],
    script: Script,
    answer: tuple[int, bytes],
    certain: bool,
):
    script.answers = [answer]
    script.headers = {"Location": "https://evil.example/"} if answer[0] == 302 else {}
    broker = make()
    with pytest.raises(BrokerError) as raised:
        await broker.issue(lab(broker, GRANT).order())
    assert isinstance(raised.value, NotMintedError) is certain
    assert "k3y" not in str(raised.value)
    assert len(script.asked) == 1, "no redirect is followed with a token"


def granted(**changes: Any) -> tuple[int, bytes]:
    made = {"token": "e.y.j", "expirationTimestamp": "2030-01-01T00:00:00Z", **changes}
    return 201, json.dumps({"spec": {"boundObjectRef": {"uid": "u-1"}}, "status": made}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        (201, b"{}"),
        (201, b'{"status": []}'),
        granted(token=""),
        granted(token=7),
        granted(expirationTimestamp=None),
        granted(expirationTimestamp="soon"),
        granted(expirationTimestamp="2030-01-01T00:00:00"),
        (201, granted()[1].replace(b"u-1", b"u-2")),
    ],
    ids=repr,
)
async def test_a_token_that_is_answered_with_something_else_is_not_used_and_its_secret_removed(
    make: Callable[..., KubernetesBroker], script: Script, answer: tuple[int, bytes]
):
    script.answers = [MADE, answer, (200, b"{}"), (404, b"{}")]
    broker = make()
    with pytest.raises(BrokerError) as raised:
        await broker.issue(lab(broker, GRANT).order())
    assert not isinstance(raised.value, NotMintedError)
    assert [method for method, _, _ in script.asked] == ["POST", "POST", "DELETE", "GET"]


async def test_a_refused_token_whose_secret_may_stand_is_not_called_unminted(
    make: Callable[..., KubernetesBroker], script: Script
):
    script.answers = [MADE, (403, b"{}"), (500, b"")]
    broker = make()
    with pytest.raises(BrokerError) as raised:
        await broker.issue(lab(broker, GRANT).order())
    assert not isinstance(raised.value, NotMintedError)


OF_ANOTHER = json.dumps(
    {"kind": "Status", "reason": "NotFound", "details": {"kind": "secrets", "name": "other"}}
).encode()


@pytest.mark.parametrize(
    "answer",
    [
        (404, b"<html>not found"),
        (404, b'{"kind": "Status", "reason": "NotFound"}'),
        (404, b'{"kind": "Status", "reason": "NotFound", "details": {"kind": "namespaces"}}'),
        (404, OF_ANOTHER),
        (410, b"{}"),
        (200, b"{}"),
    ],
    ids=repr,
)
async def test_only_the_api_servers_word_on_this_secret_confirms_that_it_is_gone(
    make: Callable[..., KubernetesBroker], script: Script, answer: tuple[int, bytes]
):
    script.answers = [(200, b"{}"), answer]
    broker = make()
    with pytest.raises(BrokerError):
        await broker.revoke(lab(broker, GRANT).order().lease, None)


@pytest.mark.parametrize("answer", [(201, b"{}"), (200, b""), (404, b"{}"), (201, b"[1]")])
async def test_a_review_that_says_nothing_confirms_nothing(
    make: Callable[..., KubernetesBroker], script: Script, answer: tuple[int, bytes]
):
    broker = make()
    lease = lab(broker, GRANT).order().lease
    details = {"kind": "secrets", "name": lease.handle}
    gone = json.dumps({"kind": "Status", "reason": "NotFound", "details": details}).encode()
    script.answers = [(404, gone), (404, gone), answer]
    with pytest.raises(BrokerError):
        await broker.revoke(lease, '{"token": "e.y.j", "audiences": []}')


async def test_a_list_of_nothing_is_no_error_and_no_list_is_one(
    make: Callable[..., KubernetesBroker], script: Script
):
    """The API server writes an empty list as null."""
    said = {"kind": "PartialObjectMetadataList", "metadata": {}, "items": None}
    script.answers = [(200, json.dumps(said).encode())]
    assert (await make().census([])).alive == frozenset()
    script.answers = [(200, b'{"kind": "Status", "items": null}')]
    with pytest.raises(BrokerError):
        await make().census([])


async def test_a_list_without_an_end_is_an_error(
    make: Callable[..., KubernetesBroker], script: Script
):
    script.answers = [
        (200, b'{"kind": "PartialObjectMetadataList", "metadata": {"continue": "again"}}')
    ]
    with pytest.raises(BrokerError, match="no end"):
        await make().census([])


async def test_a_server_whose_certificate_nobody_trusts_is_not_sent_a_token(
    make: Callable[..., KubernetesBroker], script: Script
):
    """Plain http where TLS was wanted stands for any server that cannot show its certificate."""
    script.answers = [MADE]
    broker = make(url=script.url.replace("http://", "https://"))
    with pytest.raises(BrokerError):
        await broker.issue(lab(broker, GRANT).order())
    assert not script.asked


async def test_a_long_list_is_read_to_its_end(
    make: Callable[..., KubernetesBroker], script: Script
):
    names = {f"remit-0a1b2c3d-{number:020x}" for number in range(500)}
    items = [{"metadata": {"name": name, "padding": "x" * 2000}} for name in sorted(names)]
    said = {"kind": "PartialObjectMetadataList", "items": items, "metadata": {}}
    script.answers = [(200, json.dumps(said).encode())]
    assert (await make().census([])).alive == names
