"""The OpenBao broker's configuration and grants, and a target that is anything but OpenBao."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from remit.credentials.brokers.openbao.broker import OpenBaoBroker
from remit.credentials.brokers.openbao.memo import Memo, Notes, parse_memo
from remit.credentials.port import Surroundings
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import LeaseState
from remit.testing.broker_suite import Lab

OPTIONS = {"url": "http://127.0.0.1:1", "token_file": "env:BAO_TOKEN", "timeout_seconds": 0.5}


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BAO_TOKEN", "s.the-admins-own-token")
    return "s.the-admins-own-token"


def surroundings(folder: Path) -> Surroundings:
    return Surroundings(
        http=None,  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC),
        signer=None,  # type: ignore[arg-type]
        installation="remit-0a1b2c3d",
        state=folder,
        path=lambda text: folder / text,
    )


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., OpenBaoBroker]]:
    made: list[OpenBaoBroker] = []

    def one(**options: Any) -> OpenBaoBroker:
        made.append(OpenBaoBroker("bao", {**OPTIONS, **options}, surroundings(tmp_path)))
        return made[-1]

    yield one
    for each in made:
        await each.close()


class FakeTarget:
    """What the suite's Lab needs to know to make orders."""

    installation = "remit-0a1b2c3d"
    names_are_ours = False

    def __init__(self, broker: OpenBaoBroker, **grant: Any) -> None:
        self.broker, self.grant = broker, {"policies": ["reader"], **grant}


def lab(broker: OpenBaoBroker, **grant: Any) -> Lab:
    return Lab(FakeTarget(broker, **grant))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "http://bao.example:8200"}, "https"),
        ({"url": "https://user:word@bao.example"}, "url"),
        ({"url": "https://bao.example/v1"}, "url"),
        ({"url": "ftp://127.0.0.1"}, "url"),
        ({"token_file": None}, "token_file"),
        ({"login": "jwt"}, "role"),
        ({"login": "jwt", "role": "remit"}, "token_file"),
        ({"login": "approle", "token_file": None, "role_id": "x"}, "secret_id_file"),
        ({"login": "userpass"}, "userpass"),
        ({"mount": "jwt/../sys"}, "mount"),
        ({"token_role": "remit/../../sys/seal"}, "token_role"),
        ({"token": "s.in-clear"}, "token"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"connections": 0}, "connections"),
        ({"connections": "8"}, "connections"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_name_the_table_and_the_key(
    tmp_path: Path, changes: dict[str, Any], said: str
):
    given = {key: value for key, value in {**OPTIONS, **changes}.items() if value is not None}
    with pytest.raises(ConfigError) as raised:
        OpenBaoBroker("bao", given, surroundings(tmp_path))
    assert "[broker.bao]" in str(raised.value)
    assert said in str(raised.value)
    assert "s.in-clear" not in str(raised.value)


@pytest.mark.parametrize(
    "grant",
    [
        {},
        {"policies": []},
        {"policies": ["root"]},
        {"policies": ["{args.policy}"]},
        {"policies": ["{task.template}"]},
        {"policies": ["a b"]},
        {"policies": ["a\n"]},
        {"policies": ["ä"]},
        {"policies": ["x" * 200]},
        {"policies": "reader"},
        {"policies": ["r"], "secret": ""},
        {"policies": ["r"], "secret": "database/creds/../../sys/seal"},
        {"policies": ["r"], "secret": "/database/creds/x"},
        {"policies": ["r"], "secret": "database//x"},
        {"policies": ["r"], "secret": "database/creds/x?list=true"},
        {"policies": ["r"], "secret": "database/creds/x%2f.."},
        {"policies": ["r"], "secret": "database/creds/x\x00"},
        {"policies": ["r"], "secret": "auth/token/create"},
        {"policies": ["r"], "secret": "sys/leases/revoke-force/database"},
        {"policies": ["r"], "secret": "/".join("a" * 20)},
        {"policies": ["r"], "parameters": {"a": "b"}},
        {"policies": ["r"], "secret": "pki/issue/x", "parameters": {"a": {"b": 1}}},
        {"policies": ["r"], "secret": "pki/issue/x", "parameters": {"a": "x" * 20_000}},
        {"policies": ["r"], "secret": "pki/issue/x", "wrap": 30},
        {"policies": ["r"], "secret": "pki/issue/x", "uses": 1},
        {"policies": ["r"], "uses": -1},
        {"policies": ["r"], "wrap": True},
        {"policies": ["r"], "ttl": "9999h"},
    ],
    ids=repr,
)
def test_grants_that_make_no_sense_are_refused_when_they_are_read(
    make: Callable[..., OpenBaoBroker], grant: Mapping[str, Any]
):
    with pytest.raises(ConfigError):
        make().check(grant)


def test_a_reference_may_stand_in_a_secrets_path_and_parameters(make: Callable[..., OpenBaoBroker]):
    make().check(
        {
            "policies": ["reader"],
            "secret": "database/creds/{args.role}",
            "parameters": {"common_name": "{task.id}.agent.example"},
        }
    )


@pytest.mark.parametrize("filled", ["../../sys/seal", "x?y", "", "x\ny", "ü", "a" * 300, 7, None])
async def test_an_argument_that_leads_elsewhere_mints_nothing(
    make: Callable[..., OpenBaoBroker], filled: Any
):
    path = f"database/creds/{filled}" if isinstance(filled, str) else filled
    broker = make()
    order = lab(broker).order(grant={"policies": ["reader"], "secret": path})
    if path is None:
        order = replace(order, grant={"policies": None})
    with pytest.raises(NotMintedError, match="grant"):
        await broker.issue(order)


@pytest.mark.parametrize("listing", [True, False])
async def test_a_target_that_nobody_reaches_minted_nothing_and_nothing_is_left_open(
    make: Callable[..., OpenBaoBroker], listing: bool
):
    broker = make(list_accessors=listing)
    order = lab(broker).order()
    with pytest.raises(NotMintedError, match="is not reached"):
        await broker.issue(order)
    answer = await broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
    assert (answer.confirmed, answer.until, answer.detail) == (False, None, "nothing was minted")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606])
async def test_a_token_that_others_may_read_is_not_used(
    make: Callable[..., OpenBaoBroker], tmp_path: Path, mode: int
):
    (tmp_path / "token").write_text("s.shared-with-everyone")
    (tmp_path / "token").chmod(mode)
    broker = make(token_file="token")
    with pytest.raises(NotMintedError, match="0600") as raised:
        await broker.issue(lab(broker).order())
    assert "s.shared" not in str(raised.value)


@pytest.mark.parametrize("named", ["no-such-file", "env:NO_SUCH_VARIABLE", "empty"])
async def test_a_token_that_is_not_there_is_named(
    make: Callable[..., OpenBaoBroker], tmp_path: Path, named: str
):
    (tmp_path / "empty").touch(mode=0o600)
    broker = make(token_file=named)
    with pytest.raises(NotMintedError, match=named):
        await broker.issue(lab(broker).order())


def test_a_memo_says_no_more_than_names_and_what_is_no_memo_is_none():
    memo = Memo(accessor="a", lease_id="database/creds/x/1")
    assert parse_memo(memo.text()) == memo
    assert json.loads(memo.text()) == {"accessor": "a", "lease_id": "database/creds/x/1"}
    for text in (None, "", "{", "[]", '{"lease_id": "x"}', '"\ud800"'):
        assert parse_memo(text) is None


@pytest.mark.parametrize("handle", ["../escape", "a/b", "", ".hidden", "x" * 300, "a\x00"])
def test_a_note_stays_in_its_folder(tmp_path: Path, handle: str):
    notes = Notes(tmp_path / "notes")
    with pytest.raises(OSError, match="handle"):
        notes.keep(handle, Memo(accessor="a"))
    assert notes.find(handle) is None
    notes.forget(handle)


# --- a server that answers as a test says ---


class Script:
    """What the fake server answers by method and path, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.hang = threading.Event()
        self.hung = threading.Event()
        self.url = ""

    def of(self, path: str) -> list[tuple[str, str, dict[str, str], Any]]:
        return [each for each in self.asked if each[1] == path]


@pytest.fixture
def script() -> Iterator[Script]:
    made = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            path = self.path.removeprefix("/v1/")
            made.asked.append((self.command, path, dict(self.headers), body))
            status, said, headers = made.answers.get((self.command, path), (404, {}, {}))
            if callable(said):
                status, said = said(body)
            if said == "hang":
                made.hung.set()
                made.hang.wait(20)
                status, said = 200, {"lease_id": "db/1", "data": {"password": "p" * 20}}
            data = b"" if status == 204 else json.dumps(said).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as above
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    running = threading.Thread(target=server.serve_forever, args=(0.02,))
    running.start()
    try:
        yield made
    finally:
        made.hang.set()
        server.shutdown()
        server.server_close()
        running.join(10)


MADE = {"auth": {"client_token": "s.made-for-a-lease", "accessor": "acc1", "lease_duration": 60}}
GONE = (400, {"errors": ["1 error occurred:\n\t* invalid accessor\n\n"]}, {})


async def test_nothing_is_taken_from_the_environment_and_no_redirect_is_followed(
    make: Callable[..., OpenBaoBroker],
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
):
    for name in ("VAULT_TOKEN", "VAULT_NAMESPACE", "BAO_TOKEN_X"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:2")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:3")
    script.answers["POST", "auth/token/create"] = (307, {}, {"Location": f"{script.url}/v1/steal"})
    broker = make(url=script.url)
    with pytest.raises(BrokerError):
        await broker.issue(lab(broker).order())
    (asked,) = script.asked
    assert asked[2]["X-Vault-Token"] == token
    assert "X-Vault-Namespace" not in asked[2]
    assert not script.of("steal")


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_refusal_minted_nothing_and_repeats_nothing_of_the_answer(
    make: Callable[..., OpenBaoBroker], script: Script, status: int
):
    said = {"errors": ["permission denied for s.the-admins-own-token"]}
    script.answers["POST", "auth/token/create"] = (status, said, {})
    broker = make(url=script.url)
    with pytest.raises(NotMintedError) as raised:
        await broker.issue(lab(broker).order())
    assert "s.the-admins" not in str(raised.value)


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"errors": ["boom"]}, {}),
        (503, {"errors": ["sealed"]}, {}),
        (200, {}, {}),
        (200, {"auth": None}, {}),
        (200, {"auth": []}, {}),
        (200, {"auth": {"client_token": "s.x"}}, {}),
        (200, "text", {}),
        (200, "text", {"Content-Type": "text/html"}),
        (302, {}, {"Location": "/elsewhere"}),
    ],
    ids=repr,
)
async def test_an_answer_that_makes_no_sense_may_have_minted(
    make: Callable[..., OpenBaoBroker], script: Script, answer: Any
):
    script.answers["POST", "auth/token/create"] = answer
    broker = make(url=script.url)
    with pytest.raises(BrokerError) as raised:
        await broker.issue(lab(broker).order())
    assert not isinstance(raised.value, NotMintedError)


@pytest.mark.parametrize(
    "said",
    [
        (404, {"errors": []}, {}),
        (404, {"errors": ["no handler for route"]}, {}),
        (403, {"errors": ["permission denied"]}, {}),
        (200, {"data": None}, {}),
        (204, {}, {}),
        (500, {"errors": ["invalid accessor"]}, {}),
    ],
    ids=repr,
)
async def test_only_the_targets_own_word_is_an_absence(
    make: Callable[..., OpenBaoBroker], script: Script, said: Any
):
    script.answers["POST", "auth/token/revoke-accessor"] = (204, {}, {})
    script.answers["POST", "auth/token/lookup-accessor"] = said
    broker = make(url=script.url)
    lease = replace(lab(broker).order().lease, memo=Memo(accessor="acc1").text())
    with pytest.raises(BrokerError):
        await broker.revoke(lease, None)
    script.answers["POST", "auth/token/lookup-accessor"] = GONE
    assert (await broker.revoke(lease, None)).confirmed


async def test_an_accessor_that_openbao_left_behind_without_its_token_is_gone(
    make: Callable[..., OpenBaoBroker], script: Script
):
    """A mint that was cut off inside OpenBao: as found after a real one had been stopped."""

    def look(body: Mapping[str, str]) -> tuple[int, Any]:
        if body["accessor"] == "acc1":
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        return GONE[:2]

    script.answers["POST", "auth/token/lookup-accessor"] = (0, look, {})
    script.answers["POST", "auth/token/revoke-accessor"] = (
        400,
        {"errors": ["token not found"]},
        {},
    )
    script.answers["GET", "auth/token/accessors?list=true"] = (
        200,
        {"data": {"keys": ["acc1"]}},
        {},
    )
    broker = make(url=script.url)
    lease = replace(lab(broker).order().lease, memo=Memo(accessor="acc1").text())
    assert (await broker.revoke(lease, None)).confirmed
    census = await broker.census([lease])
    assert (census.alive, census.complete) == (frozenset(), True)


async def test_what_openbao_says_it_revoked_and_still_stands_is_not_confirmed(
    make: Callable[..., OpenBaoBroker], script: Script
):
    script.answers["POST", "auth/token/revoke-accessor"] = (204, {}, {})
    script.answers["PUT", "sys/leases/revoke"] = (400, {"errors": ["failed to revoke entry"]}, {})
    script.answers["PUT", "sys/leases/lookup"] = (200, {"data": {"id": "db/1"}}, {})
    script.answers["POST", "auth/token/lookup-accessor"] = GONE
    broker = make(url=script.url)
    memo = Memo(accessor="acc1", lease_id="db/1")
    lease = replace(lab(broker).order().lease, memo=memo.text())
    with pytest.raises(BrokerError):
        await broker.revoke(lease, None)
    assert script.of("auth/token/revoke-accessor"), "its token is revoked all the same"
    assert (await make(url=script.url, list_accessors=False).census([lease])).alive == {
        lease.handle
    }


async def test_a_mint_that_nobody_waits_for_ends_what_it_made_itself(
    make: Callable[..., OpenBaoBroker], script: Script
):
    """Cancelled between its token and its secret: the thread goes on, and cleans up."""
    script.answers["POST", "auth/token/create"] = (200, MADE, {})
    script.answers["GET", "database/creds/x"] = (200, "hang", {})
    script.answers["PUT", "sys/leases/revoke"] = (204, {}, {})
    script.answers["PUT", "sys/leases/lookup"] = (400, {"errors": ["invalid lease"]}, {})
    script.answers["POST", "auth/token/revoke-accessor"] = (204, {}, {})
    script.answers["POST", "auth/token/lookup-accessor"] = GONE
    broker = make(url=script.url, timeout_seconds=20)
    order = lab(broker).order(grant={"policies": ["reader"], "secret": "database/creds/x"})
    minting = asyncio.create_task(broker.issue(order))
    assert await asyncio.to_thread(script.hung.wait, 20)
    minting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await minting
    ending = asyncio.create_task(broker.revoke(order.lease.moved(LeaseState.SETTLING), None))
    done, _ = await asyncio.wait({ending}, timeout=0.1)
    assert not done, "it does not say that all is gone while a secret may still come"
    script.hang.set()
    assert (await ending).confirmed
    assert {each[3]["lease_id"] for each in script.of("sys/leases/revoke")} == {"db/1"}
    assert {each[3]["accessor"] for each in script.of("auth/token/revoke-accessor")} == {"acc1"}


async def test_mints_that_hang_keep_no_revocation_waiting(
    make: Callable[..., OpenBaoBroker], script: Script
):
    script.answers["POST", "auth/token/create"] = (200, MADE, {})
    script.answers["GET", "database/creds/x"] = (200, "hang", {})
    script.answers["POST", "auth/token/revoke-accessor"] = (204, {}, {})
    script.answers["POST", "auth/token/lookup-accessor"] = GONE
    broker = make(url=script.url, timeout_seconds=20, connections=1)
    orders = [
        lab(broker).order(grant={"policies": ["reader"], "secret": "database/creds/x"})
        for _ in range(3)
    ]
    minting = [asyncio.create_task(broker.issue(order)) for order in orders]
    assert await asyncio.to_thread(script.hung.wait, 20)
    other = replace(lab(broker).order().lease, memo=Memo(accessor="acc2").text())
    async with asyncio.timeout(10):
        assert (await broker.revoke(other, None)).confirmed
    for each in minting:
        each.cancel()
    await asyncio.gather(*minting, return_exceptions=True)
    assert len(script.of("auth/token/create")) == 1, "those that waited for a thread never began"


async def test_a_mint_that_waits_for_a_thread_never_begins_once_its_lease_is_revoked(
    make: Callable[..., OpenBaoBroker], script: Script
):
    script.answers["POST", "auth/token/create"] = (200, MADE, {})
    script.answers["GET", "database/creds/x"] = (200, "hang", {})
    broker = make(url=script.url, timeout_seconds=20, connections=1, list_accessors=False)
    first = asyncio.create_task(broker.issue(lab(broker, secret="database/creds/x").order()))
    assert await asyncio.to_thread(script.hung.wait, 20)
    order = lab(broker).order()
    waiting = asyncio.create_task(broker.issue(order))
    await asyncio.sleep(0)
    ending = order.lease.moved(LeaseState.SETTLING)
    await broker.revoke(ending, None)
    with pytest.raises(NotMintedError, match="before its mint began"):
        await waiting
    assert (await broker.revoke(ending, None)).detail == "nothing was minted"
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert len(script.of("auth/token/create")) == 1


async def test_a_note_that_cannot_be_written_mints_no_secret(
    make: Callable[..., OpenBaoBroker], script: Script, tmp_path: Path
):
    (tmp_path / "brokers").write_text("a file in the place of a folder")
    script.answers["POST", "auth/token/create"] = (200, MADE, {})
    script.answers["POST", "auth/token/revoke-accessor"] = (204, {}, {})
    script.answers["POST", "auth/token/lookup-accessor"] = GONE
    broker = make(url=script.url)
    with pytest.raises(BrokerError, match="state folder"):
        await broker.issue(lab(broker, secret="database/creds/x").order())
    assert script.of("auth/token/revoke-accessor")
    assert not script.of("database/creds/x")


async def test_two_fields_of_one_name_are_not_guessed_between(
    make: Callable[..., OpenBaoBroker], script: Script
):
    script.answers["POST", "auth/token/create"] = (200, MADE, {})
    said = {"lease_id": "kv/1", "data": {"API-Key": "a" * 9, "api_key": "b" * 9}}
    script.answers["GET", "kv/app"] = (200, said, {})
    broker = make(url=script.url)
    with pytest.raises(BrokerError, match="api_key"):
        await broker.issue(lab(broker, secret="kv/app").order())
