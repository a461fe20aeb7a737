"""The OpenBao broker cut off at any point, and a server that does what it is asked and answers badly."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hvac
import pytest
from nginx import server_certificate
from openbao_stand_in import (
    CREATE,
    LIST,
    LOOK,
    LOOK_LEASE,
    REMITS,
    REVOKE,
    REVOKE_LEASE,
    SECRET,
    Bad,
    StandIn,
    answer,
    openbao_stand_in,
)
from scripted_target import lab

from remit.credentials.brokers.openbao import own
from remit.credentials.brokers.openbao.broker import OpenBaoBroker
from remit.credentials.brokers.openbao.carried import Asked, Asking, Carrier
from remit.credentials.brokers.openbao.memo import Memo
from remit.credentials.port import Order, Surroundings
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import LeaseState

TOKEN = {"policies": ["reader"]}
WITH_SECRET = {"policies": ["reader"], "secret": SECRET}
Make = Callable[..., OpenBaoBroker]


class Signer:
    """Signs nothing: the stand-in takes any."""

    issuer = "https://remit.example"

    def sign_jwt(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        del claims, typ
        return "a.jwt"


@pytest.fixture
async def bao() -> AsyncIterator[StandIn]:
    async with openbao_stand_in() as made:
        yield made


@pytest.fixture
async def make(bao: StandIn, tmp_path: Path) -> AsyncIterator[Make]:
    made: list[OpenBaoBroker] = []
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(f"{REMITS}\n")

    def one(**options: Any) -> OpenBaoBroker:
        given = {"url": bao.url, "token_file": "token", "timeout_seconds": 5.0, **options}
        if "login" in given:
            del given["token_file"]
        house = Surroundings(
            http=None,  # type: ignore[arg-type]
            clock=lambda: datetime.now(UTC),
            signer=Signer(),
            installation="remit-0a1b2c3d",
            state=tmp_path,
            path=lambda text: tmp_path / text,
        )
        made.append(OpenBaoBroker("bao", given, house))
        return made[-1]

    yield one
    for each in made:
        await each.close()


def an_order(broker: OpenBaoBroker, grant: Mapping[str, Any] = TOKEN) -> Order:
    return lab(broker, grant).order()


async def steps(number: int) -> None:
    """Let everything in the loop take so many steps."""
    for _ in range(number):
        await asyncio.sleep(0)


async def healed(bao: StandIn) -> None:
    """Let it answer well again; what it closed is known to be closed."""
    bao.bad.clear()
    await steps(20)


def notes(folder: Path) -> list[str]:
    place = folder / "brokers" / "bao"
    return [each.name for each in place.iterdir()] if place.exists() else []


# --- cut off ---


@pytest.mark.parametrize("listing", [True, False])
@pytest.mark.parametrize("grant", [TOKEN, WITH_SECRET], ids=["token", "secret"])
async def test_a_mint_cancelled_at_any_step_leaves_nothing_once_its_lease_is_revoked(
    make: Make, bao: StandIn, tmp_path: Path, grant: Mapping[str, Any], *, listing: bool
):
    broker = make(list_accessors=listing)
    stood = 0
    for number in range(1, 1000):
        order = an_order(broker, grant)
        minting = asyncio.create_task(broker.issue(order))
        await steps(number)
        over = minting.done()
        minting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await minting
        stood += bool(bao.standing())
        said = await broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
        assert said.until is None
        assert not bao.standing(), number
        assert not notes(tmp_path), number
        if over:
            break
    assert over, "no mint came to its end"
    assert number > 5
    assert stood > 1, "no mint was cut off with something made: nothing was shown"


@pytest.mark.parametrize("grant", [TOKEN, WITH_SECRET], ids=["token", "secret"])
async def test_a_revocation_cancelled_at_any_step_can_be_repeated_to_its_end(
    make: Make, bao: StandIn, tmp_path: Path, grant: Mapping[str, Any]
):
    broker = make()
    cut = 0
    for number in range(1, 1000):
        order = an_order(broker, grant)
        credential = await broker.issue(order)
        lease = order.lease.moved(LeaseState.SETTLING, memo=credential.memo)
        ending = asyncio.create_task(broker.revoke(lease, None))
        await steps(number)
        over = ending.done()
        ending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ending
        cut += bool(bao.standing())
        assert (await broker.revoke(lease, None)).confirmed
        assert not bao.standing(), number
        assert not notes(tmp_path)
        if over:
            break
    assert over, "no revocation came to its end"
    assert cut > 1


@pytest.mark.parametrize("grant", [TOKEN, WITH_SECRET], ids=["token", "secret"])
async def test_a_mint_whose_lease_is_revoked_at_any_step_ends_what_it_made_and_gives_none(
    make: Make, bao: StandIn, grant: Mapping[str, Any]
):
    broker = make()
    for number in range(1, 1000):
        order = an_order(broker, grant)
        minting = asyncio.create_task(broker.issue(order))
        await steps(number)
        over = minting.done()
        await broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
        assert not bao.standing(), number
        if over:
            break
        with contextlib.suppress(BrokerError):
            await minting
        assert not bao.standing(), number
    assert over


@pytest.mark.parametrize("login", [{}, {"login": "jwt", "role": "remit"}], ids=["token", "jwt"])
async def test_a_broker_closed_at_any_step_of_a_mint_leaves_nothing_and_logs_out(
    make: Make, bao: StandIn, login: Mapping[str, str]
):
    given_up = 0
    for number in range(1, 1000):
        broker = make(**login)
        minting = asyncio.create_task(broker.issue(an_order(broker, WITH_SECRET)))
        await steps(number)
        over = minting.done()
        await broker.close()
        (said,) = await asyncio.gather(minting, return_exceptions=True)
        assert bao.own == {REMITS}, number
        if isinstance(said, BrokerError):
            assert not bao.standing(), number
            given_up += 1
        bao.tokens.clear()
        bao.leases.clear()
        if over:
            break
    assert over
    assert given_up > 5


# --- bad answers ---


async def cut_before(writer: asyncio.StreamWriter) -> None:
    del writer


async def cut_within(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, b'{"auth": {"client_token": "s.secret-half', length=500))


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"s.secret-half \x00\xff\r\n\r\n")


async def no_json(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, b"<html>s.secret-half</html>"))


async def a_list(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, ["s.secret-half"]))


async def something_else(writer: asyncio.StreamWriter) -> None:
    odd = {"auth": {"client_token": 7, "accessor": ["s.secret-half"], "lease_duration": "x"}}
    writer.write(answer(200, {**odd, "data": 7, "lease_id": {"a": 1}}))


async def too_deep(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, b'{"data":' * 100_000))


BOMB = gzip.compress(b"0" * 20_000_000)


async def squeezed(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, BOMB, "Content-Encoding: gzip"))


async def without_end(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, b"", length=10**12))
    while not writer.is_closing():
        writer.write(b" " * 100_000)
        await writer.drain()


async def heads_without_end(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while not writer.is_closing():
        writer.write(b"X: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def elsewhere(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(307, None, "Location: /v1/elsewhere"))


async def odd_errors(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(500, {"errors": [{"a": "s.secret-half"}, 7, None]}))


async def never(writer: asyncio.StreamWriter) -> None:
    await writer.wait_closed()


async def drop_by_drop(writer: asyncio.StreamWriter) -> None:
    for byte in answer(200, {"data": {}, "auth": {}}):
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


BAD = [
    cut_before, cut_within, no_http, no_json, a_list, something_else, too_deep, squeezed,
    without_end, heads_without_end, elsewhere, odd_errors, never, drop_by_drop,
]  # fmt: skip


@pytest.mark.parametrize("path", [CREATE, SECRET])
@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_answer_to_a_mint_may_hide_one_and_is_found_or_ended(
    make: Make, bao: StandIn, bad: Bad, path: str
):
    bao.bad[path] = bad
    broker = make(timeout_seconds=0.5)
    order = an_order(broker, WITH_SECRET)
    with pytest.raises(BrokerError) as raised:
        await broker.issue(order)
    assert not isinstance(raised.value, NotMintedError), "it was made"
    assert "s.secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert not bao.of("elsewhere")
    assert len(bao.of(path)) == 1, "nothing that makes something is asked twice"
    await healed(bao)
    await make().revoke(order.lease.moved(LeaseState.SETTLING), None)
    assert not bao.standing()


@pytest.mark.parametrize("path", [REVOKE, REVOKE_LEASE, LOOK, LOOK_LEASE])
@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_answer_to_a_revocation_confirms_nothing(
    make: Make, bao: StandIn, bad: Bad, path: str
):
    broker = make()
    order = an_order(broker, WITH_SECRET)
    credential = await broker.issue(order)
    lease = order.lease.moved(LeaseState.SETTLING, memo=credential.memo)
    bao.bad[path] = bad
    hasty = make(timeout_seconds=0.5)
    (said,) = await asyncio.gather(hasty.revoke(lease, None), return_exceptions=True)
    if isinstance(said, BaseException):
        assert isinstance(said, BrokerError)
        assert "s.secret" not in str(said)
    else:  # a revocation's own answer counts for nothing; what was looked up afterwards does
        assert path in {REVOKE, REVOKE_LEASE}
        assert said.confirmed
        assert not bao.standing()
    await healed(bao)
    assert (await broker.revoke(lease, None)).confirmed
    assert not bao.standing()


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_listing_is_no_census(make: Make, bao: StandIn, bad: Bad):
    broker = make()
    order = an_order(broker)
    await broker.issue(order)
    bao.bad[LIST] = bad
    with pytest.raises(BrokerError):
        await make(timeout_seconds=0.5).census([])
    await healed(bao)
    assert (await broker.census([])).alive == {order.lease.handle}


# --- Remit's own token ---


async def test_a_token_file_is_read_again_when_it_is_another_and_not_before(
    make: Make, bao: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[object] = []
    opening = os.open

    def spy(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("token"):
            opened.append(path)
        return opening(path, *rest, **more)

    monkeypatch.setattr(own.os, "open", spy)
    broker, file = make(), tmp_path / "token"

    async def shown() -> str:
        order = an_order(broker)
        credential = await broker.issue(order)
        await broker.revoke(order.lease.moved(LeaseState.SETTLING, memo=credential.memo), None)
        return bao.of(CREATE)[-1]["x-vault-token"]

    bao.own |= {"s.remits-new-token", "s.remits-own-tokex"}
    assert [await shown() for _ in range(3)] == [REMITS] * 3
    assert len(opened) == 1
    file.write_text("s.remits-own-tokex\n")  # in place, and as long as before
    assert await shown() == "s.remits-own-tokex"
    other = tmp_path / "other"
    other.touch(mode=0o600)
    other.write_text("s.remits-new-token\n")
    other.replace(file)
    assert await shown() == "s.remits-new-token"
    assert len(opened) == 3
    file.chmod(0o644)
    with pytest.raises(NotMintedError, match="0600"):
        await shown()
    file.unlink()
    with pytest.raises(NotMintedError, match="cannot be read"):
        await shown()


async def test_a_refused_token_is_read_again_though_its_file_seems_the_same(
    make: Make, bao: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two writes within one tick of the file system's clock look the same."""
    monkeypatch.setattr(own, "_identity", lambda _: (1,))
    broker = make()
    first, second = (an_order(broker) for _ in range(2))
    credential = await broker.issue(first)
    (tmp_path / "token").write_text("s.remits-new-token\n")
    bao.own = {"s.remits-new-token"}
    lease = first.lease.moved(LeaseState.SETTLING, memo=credential.memo)
    assert (await broker.revoke(lease, None)).confirmed
    await broker.issue(second)
    bao.own = set()
    with pytest.raises(NotMintedError, match="its age"):
        await broker.issue(an_order(broker))
    assert len(bao.of(CREATE)) == 3, "the same token is not shown twice"


@pytest.mark.parametrize("text", ["s.one\ns.two", "s.one\x00", "s.\u00fc", "\n", "s.one\r\nX-Y: z"])
async def test_what_is_no_token_is_not_sent(make: Make, bao: StandIn, tmp_path: Path, text: str):
    (tmp_path / "token").write_text(text)
    broker = make()
    with pytest.raises(NotMintedError, match="no secret"):
        await broker.issue(an_order(broker))
    assert not bao.asked


async def test_a_pipe_in_the_place_of_a_token_holds_nothing_up(make: Make, tmp_path: Path):
    (tmp_path / "token").unlink()
    os.mkfifo(tmp_path / "token", 0o600)
    broker = make()
    with pytest.raises(NotMintedError, match="no secret"):
        await broker.issue(an_order(broker))


async def test_mints_at_once_share_one_login_which_is_gone_at_the_end(make: Make, bao: StandIn):
    broker = make(login="jwt", role="remit")
    orders = [an_order(broker) for _ in range(8)]
    made = await asyncio.gather(*(broker.issue(order) for order in orders))
    assert bao.logins == 1
    for order, credential in zip(orders, made, strict=True):
        lease = order.lease.moved(LeaseState.SETTLING, memo=credential.memo)
        assert (await broker.revoke(lease, None)).confirmed
    await broker.close()
    assert bao.own == {REMITS}


async def test_a_login_whose_mint_was_cancelled_is_used_by_the_next_and_not_lost(
    make: Make, bao: StandIn
):
    broker = make(login="jwt", role="remit")
    for number in range(12):
        minting = asyncio.create_task(broker.issue(an_order(broker)))
        await steps(number)
        minting.cancel()
        await asyncio.gather(minting, return_exceptions=True)
    await broker.issue(an_order(broker))
    assert bao.logins == 1
    await broker.close()
    assert bao.own == {REMITS}


async def test_a_login_under_way_is_not_lost_with_whoever_waited_for_it_first(
    make: Make, bao: StandIn
):
    for number in range(1, 30):
        broker = make(login="jwt", role="remit")
        lease = replace(an_order(broker).lease, memo=Memo(accessor="acc").text())
        first, second = (asyncio.create_task(broker.revoke(lease, None)) for _ in range(2))
        await steps(number)
        first.cancel()
        assert (await second).confirmed
        await asyncio.gather(first, return_exceptions=True)
        assert bao.logins == number
        await broker.close()
        assert bao.own == {REMITS}, number


async def test_a_broker_closed_during_its_login_waits_for_it_and_logs_out(make: Make, bao: StandIn):
    heard, held = asyncio.Event(), asyncio.Event()

    async def later(writer: asyncio.StreamWriter) -> None:
        heard.set()
        await held.wait()
        auth = {"client_token": f"s.login-{bao.logins}", "lease_duration": 3600}
        writer.write(answer(200, {"auth": auth}, "Connection: close"))

    bao.bad["auth/jwt/login"] = later
    broker = make(login="jwt", role="remit")
    lease = replace(an_order(broker).lease, memo=Memo(accessor="acc").text())
    ending = asyncio.create_task(broker.revoke(lease, None))
    await heard.wait()
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    closing = asyncio.create_task(broker.close())
    await steps(20)
    held.set()
    await closing
    assert bao.own == {REMITS}


# --- what is carried ---

HEADERS = {"X-Vault-Request": "true", "X-Vault-Token": "s.t", "X-Vault-Namespace": "team"}
JSON = {"Content-Type": "application/json"}


def methods() -> list[tuple[str, Asking, tuple[str, str, object, Mapping[str, str]]]]:
    """Return each method that the broker uses, and what hvac is to make of it."""
    made = {
        "policies": ["reader"],
        "meta": {"remit_lease": "h"},
        "no_parent": False,
        "no_default_policy": True,
        "renewable": False,
        "ttl": "5s",
        "explicit_max_ttl": "5s",
        "display_name": "h",
        "num_uses": 1,
    }

    def create(client: hvac.Client, **more: Any) -> Asked:
        words = {key: value for key, value in made.items() if key != "no_parent"}
        return client.auth.token.create(**words, **more)  # type: ignore[no-any-return]

    wrapped = {**JSON, "X-Vault-Wrap-TTL": "30s"}
    put, anonymous = {"lease_id": "db/1", "sync": True}, {"use_token": False}
    return [
        ("create", create, ("POST", CREATE, made, JSON)),
        (
            "create_with_role",
            lambda c: create(c, role_name="remit", wrap_ttl="30s"),
            ("POST", f"{CREATE}/remit", made, wrapped),
        ),
        (
            "lookup_accessor",
            lambda c: c.auth.token.lookup_accessor("a/b"),
            ("POST", LOOK, {"accessor": "a/b"}, JSON),
        ),
        (
            "revoke_accessor",
            lambda c: c.auth.token.revoke_accessor("a/b"),
            ("POST", REVOKE, {"accessor": "a/b"}, JSON),
        ),
        (
            "list_accessors",
            lambda c: c.auth.token.list_accessors(),
            ("GET", f"{LIST}?list=true", None, {}),
        ),
        (
            "lookup_self",
            lambda c: c.auth.token.lookup_self(),
            ("GET", "auth/token/lookup-self", None, {}),
        ),
        (
            "get_capabilities",
            lambda c: c.sys.get_capabilities(paths=["sys/seal"]),
            ("POST", "sys/capabilities-self", {"paths": ["sys/seal"]}, JSON),
        ),
        (
            "revoke_self",
            lambda c: c.auth.token.revoke_self(),
            ("POST", "auth/token/revoke-self", None, {}),
        ),
        (
            "read_lease",
            lambda c: c.sys.read_lease("db/1"),
            ("PUT", LOOK_LEASE, {"lease_id": "db/1"}, JSON),
        ),
        (
            "revoke_lease",
            lambda c: c.adapter.put("/v1/sys/leases/revoke", json=put),
            ("PUT", REVOKE_LEASE, put, JSON),
        ),
        ("read", lambda c: c.adapter.get("/v1/db/x"), ("GET", "db/x", None, {})),
        (
            "write",
            lambda c: c.adapter.post("/v1/pki/x", json={"ttl": "5s"}),
            ("POST", "pki/x", {"ttl": "5s"}, JSON),
        ),
        (
            "approle_login",
            lambda c: c.auth.approle.login("r", "s", mount_point="m", **anonymous),
            ("POST", "auth/m/login", {"role_id": "r", "secret_id": "s"}, JSON),
        ),
        (
            "jwt_login",
            lambda c: c.auth.jwt.jwt_login("r", "j", path="m", **anonymous),
            ("POST", "auth/m/login", {"role": "r", "jwt": "j"}, JSON),
        ),
    ]


@pytest.mark.parametrize(
    ("asking", "wanted"), [each[1:] for each in methods()], ids=[each[0] for each in methods()]
)
def test_hvac_hands_over_each_request_as_it_would_have_sent_it(
    asking: Asking, wanted: tuple[str, str, object, Mapping[str, str]]
):
    """An ``hvac`` that asks otherwise, or that does something with an answer, fails here."""
    carrier = Carrier("http://127.0.0.1:1/", "team", seconds=1, tls=True)
    asked = carrier.asked("s.t", asking)
    assert isinstance(asked, Asked)
    method, path, body, headers = wanted
    assert (asked.method, asked.url) == (method, f"http://127.0.0.1:1/v1/{path}")
    assert (None if asked.data is None else json.loads(asked.data)) == body
    assert asked.headers == {**HEADERS, **headers}
    assert "s.t" not in repr(asked)


def test_nothing_is_shown_without_a_token():
    asked = Carrier("http://127.0.0.1:1", None, seconds=1, tls=True).asked(
        "", lambda client: client.auth.token.revoke_self()
    )
    assert asked.headers == {"X-Vault-Request": "true"}


async def test_a_cookie_is_not_kept_and_connections_are_used_again(make: Make, bao: StandIn):
    async def cookie(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(500, {"errors": []}, "Set-Cookie: a=b"))

    bao.bad[CREATE] = cookie
    broker = make(url=bao.url.replace("127.0.0.1", "localhost"))
    with pytest.raises(BrokerError):
        await broker.issue(an_order(broker))
    await healed(bao)
    await broker.issue(an_order(broker))
    assert len(bao.of(CREATE)) == 2
    assert all("cookie" not in headers for _, _, headers in bao.asked)


async def test_only_the_authorities_of_its_own_file_are_trusted(make: Make, tmp_path: Path):
    server_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    async with openbao_stand_in(context) as bao:
        stranger = make(url=bao.url)
        with pytest.raises(NotMintedError, match="is not reached"):
            await stranger.issue(an_order(stranger))
        assert not bao.asked, "no token went to a server that nobody vouches for"
        broker = make(url=bao.url, ca_file="server.crt")
        assert (await broker.issue(an_order(broker))).values["token"]
    (tmp_path / "empty").touch()
    for named in ("empty", "no-such-file"):
        with pytest.raises(ConfigError, match="ca_file"):
            make(ca_file=named)
