"""The way out for HTTP APIs, over real HTTP, in front of services that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver
from nginx import server_certificate
from yarl import URL

from remit.gateway.egress.addresses import PublicOnly, is_public
from remit.gateway.egress.flight import HOLD_BYTES
from remit.gateway.egress.front import Egress
from remit.gateway.egress.operations import Operation, Operations
from remit.gateway.egress.service import Service
from remit.gateway.injection import Injection
from remit.gateway.leaks import LeakGuard
from remit.gateway.options import GatewayOptions
from remit.model.contact import Contact
from remit.model.errors import BrokerError, ConfigError
from remit.model.lease import Credential
from remit.model.outcome import Ending

TOKEN = "minted-token-0123456789"
OPERATIONS = Operations(
    [
        Operation(name="orders.list", method="GET", path="/orders", query=("state",)),
        Operation(name="orders.get", method="GET", path="/orders/{order}"),
        Operation(name="orders.head", method="HEAD", path="/orders/{order}"),
        Operation(name="orders.make", method="POST", path="/orders", body="json"),
        Operation(name="orders.put", method="PUT", path="/orders/{order}", body="json"),
        Operation(name="orders.drop", method="DELETE", path="/orders/{order}"),
    ]
)


@dataclass
class Shop:
    """A service that writes down each request as it came, and answers as it is told."""

    answer: bytes = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )
    script: Callable[..., Any] | None = None
    heard: list[bytes] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.serving.add(task := asyncio.ensure_future(self.serve(reader, writer)))
        task.add_done_callback(self.serving.discard)
        try:
            await asyncio.wait({task})
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def close(self) -> None:
        for task in list(self.serving):
            task.cancel()
        while self.serving:
            await asyncio.wait(self.serving)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            self.heard.append(head + await reader.readexactly(length))
            if self.script is not None:
                await self.script(reader, writer)
            else:
                writer.write(self.answer)
                await writer.drain()
            await reader.read()
        self.left.set()

    @property
    def line(self) -> bytes:
        return self.heard[-1].partition(b"\r\n")[0]

    @property
    def headers(self) -> dict[str, str]:
        lines = self.heard[-1].partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        pairs = [line.split(": ", 1) for line in lines]
        assert len({name.lower() for name, _ in pairs}) == len(pairs)
        return {name.lower(): value for name, value in pairs}


@dataclass
class Stall:
    """The gateway in front of the shop."""

    url: str
    authority: Any
    egress: Egress
    http: aiohttp.ClientSession
    shop: Shop

    async def ask(self, method: str, path: str, data: Any = None, **headers: str) -> Any:
        sent = {"authorization": "Bearer token-a", "remit-task": "a:task_1"}
        if data is not None:
            sent["content-type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(
            method,
            URL(f"{self.url}/egress/shop{path}", encoded=True),
            data=data,
            headers=sent,
            allow_redirects=False,
        ) as got:
            body = await got.read()
            return SimpleNamespace(status=got.status, headers=got.headers, body=body)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def open_stall(shop: Shop, serve: Any, stand: Any) -> AsyncIterator[Any]:
    """Open the gateway in front of the shop, with a service that is described anew."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(*, tls: ssl.SSLContext | None = None, **changes: Any) -> Stall:
            server = await asyncio.start_server(shop.accept, "127.0.0.1", 0, ssl=tls)
            stack.push_async_callback(shop.close)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            scheme = "https" if tls else "http"
            resolver = changes.pop("resolver", lambda: None)
            secrets = changes.pop("secrets", dict)
            given = {
                "name": "shop",
                "url": f"{scheme}://127.0.0.1:{port}",
                "operations": OPERATIONS,
                "private": True,
                "answer_seconds": 5.0,
                "inject": Injection(headers={"Authorization": "Bearer {token}"}),
            } | changes
            given["url"] = given["url"].replace("PORT", str(port))
            mcp = await stack.enter_async_context(stand())
            authority = mcp.authority
            authority.credential = Credential(values={"token": TOKEN})
            egress = Egress(
                authority=authority,
                services={"shop": Service(**given)},
                options=GatewayOptions(),
                perform=authority.perform,
                call_id=lambda: "call_1",
                guard=LeakGuard(secrets),
                resolver=resolver,
            )
            stack.push_async_callback(egress.close)
            url = await stack.enter_async_context(serve(egress))
            return Stall(url, authority, egress, mcp.http, shop)

        yield opened


@pytest.fixture
async def stall(open_stall: Any) -> Stall:
    return await open_stall()


async def test_a_request_becomes_a_call_and_goes_up_with_the_credential_alone(stall: Stall):
    got = await stall.ask(
        "GET",
        "/orders?state=open+now",
        cookie="session=1",
        dpop="x",
        x_api_key="mine",
        proxy_authorization="Basic x",
        x_forwarded_for="10.0.0.1",
        forwarded="for=10.0.0.1",
        via="1.1 me",
        x_http_method_override="DELETE",
        x_original_url="/orders/7",
        x_rewrite_url="/admin",
        impersonate_user="root",
        range="bytes=0-3",
        if_range="x",
        te="trailers",
        connection="close, x-kept",
        x_kept="1",
        expect="nothing",
        accept="application/json",
        idempotency_key="k1",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    )
    assert got.status == 200
    (call,) = stall.authority.calls
    assert (call.target, dict(call.arguments)) == ("shop/orders.list", {"state": "open now"})
    assert call.trace == "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert stall.shop.line == b"GET /orders?state=open%20now HTTP/1.1"
    sent = stall.shop.headers
    assert sent["authorization"] == f"Bearer {TOKEN}"
    assert sent["host"].startswith("127.0.0.1:")
    assert sent["host"] not in stall.url
    assert sent.keys() <= {
        *("accept", "accept-encoding", "authorization", "connection", "host"),
        *("idempotency-key", "traceparent", "user-agent"),
    }
    assert sent["accept-encoding"] == "identity"
    assert got.headers["remit-call"] == "call_1"


async def test_nothing_is_sent_without_an_identity_or_for_a_foreign_host(stall: Stall):
    assert (await stall.ask("GET", "/orders", authorization="Bearer other")).status == 401
    assert (await stall.ask("GET", "/orders", host="127.0.0.1.evil.example")).status == 403
    assert (await stall.ask("GET", "/orders", origin="https://evil.example")).status == 403
    assert (await stall.ask("GET", "/orders", remit_task="b:task_1")).status == 403
    stall.authority.denied.add("shop/orders.list")
    got = await stall.ask("GET", "/orders")
    assert got.status == 403
    problem = json.loads(got.body)
    assert problem["remit"]["policies"] == ["mandate.tool"]
    assert "remit-call" not in got.headers
    assert stall.shop.heard == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/orders/7/../8", 400),
        ("GET", "/orders/%2e%2e", 400),
        ("GET", "/orders//7", 400),
        ("GET", "/orders?state=a&state=b", 400),
        ("GET", "/orders?other=1", 400),
        ("GET", "/admin", 404),
        ("PATCH", "/orders/7", 404),
        ("OPTIONS", "/orders", 404),
    ],
)
async def test_what_is_no_operation_is_refused_before_anything_is_decided(
    stall: Stall, method: str, path: str, status: int
):
    assert (await stall.ask(method, path)).status == status
    assert stall.authority.calls == []
    assert stall.shop.heard == []


async def raw(stall: Stall, text: bytes) -> bytes:
    """Send bytes that no client library would."""
    host, _, port = stall.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text)
    await writer.drain()
    writer.write_eof()
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


WHO = b"authorization: Bearer token-a\r\nremit-task: a:task_1\r\n"


@pytest.mark.parametrize(
    "text",
    [
        b"GET http://evil.example/admin HTTP/1.1\r\nhost: 127.0.0.1\r\n" + WHO + b"\r\n",
        b"GET /egress/shop/../shop/orders HTTP/1.1\r\nhost: 127.0.0.1\r\n" + WHO + b"\r\n",
        b"GET /egress/sh%6fp/orders HTTP/1.1\r\nhost: 127.0.0.1\r\n" + WHO + b"\r\n",
        b"GET /egress/SHOP/orders HTTP/1.1\r\nhost: 127.0.0.1\r\n" + WHO + b"\r\n",
        b"GET /egress/shop%2forders HTTP/1.1\r\nhost: 127.0.0.1\r\n" + WHO + b"\r\n",
        b"GET /egress/shop/orders HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil\r\n" + WHO + b"\r\n",
        b"GET /egress/shop/orders HTTP/1.1\r\n" + WHO + b"\r\n",
        b"GET /egress/shop/orders HTTP/1.1\r\nhost: 127.0.0.1\r\n" + WHO + WHO + b"\r\n",
        b"GET /egress/shop/orders HTTP/1.1\r\nhost: 127.0.0.1\r\nif-match: a\r\nif-match: b\r\n"
        + WHO
        + b"\r\n",
        b"POST /egress/shop/orders HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n" + WHO + b"\r\n{}",
        b"POST /egress/shop/orders HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"content-length: 2\r\ncontent-length: 3\r\n" + WHO + b"\r\n{} ",
    ],
)
async def test_a_request_that_two_servers_read_apart_sends_nothing(stall: Stall, text: bytes):
    answer = await raw(stall, text)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert stall.shop.heard == []


async def test_the_host_of_an_absolute_target_decides_nothing(stall: Stall):
    line = b"GET http://evil.example/egress/shop/orders HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    await raw(stall, line + WHO + b"connection: close\r\n\r\n")
    assert all(b"evil" not in heard for heard in stall.shop.heard)


async def test_a_body_goes_up_as_the_very_bytes_that_were_read(stall: Stall):
    body = b'{ "item" : "\\u0041",  "n": 1.50 }'
    got = await stall.ask("POST", "/orders", body, content_type="application/json; charset=UTF-8")
    assert got.status == 200
    assert stall.shop.heard[-1].endswith(b"\r\n\r\n" + body)
    assert stall.shop.headers["content-type"] == "application/json"
    assert dict(stall.authority.calls[0].arguments) == {"item": "A", "n": 1.5}


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/json"},
        {"content_type": "application/json; charset=utf-16"},
        {"content_encoding": "gzip"},
    ],
)
async def test_a_body_that_the_service_could_read_otherwise_is_refused(
    stall: Stall, headers: dict[str, str]
):
    assert (await stall.ask("POST", "/orders", b"{}", **headers)).status == 400
    assert stall.shop.heard == []


async def test_a_body_beyond_the_limit_is_refused(stall: Stall):
    huge = b'{"a":"' + b"x" * (4 * 1024 * 1024) + b'"}'
    assert (await stall.ask("POST", "/orders", io.BytesIO(huge))).status == 413
    assert stall.shop.heard == []
    large = huge[:2_000_000] + b'"}'
    assert (await stall.ask("POST", "/orders", io.BytesIO(large))).status == 200
    assert stall.shop.headers["content-length"] == str(len(large))
    assert stall.shop.heard[-1].endswith(large)


async def test_headers_that_speak_for_the_gateways_host_do_not_come_down(stall: Stall):
    stall.shop.answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
        b"set-cookie: a=b\r\nwww-authenticate: Basic\r\naccess-control-allow-origin: *\r\n"
        b'alt-svc: h3=":443"\r\nstrict-transport-security: max-age=1\r\nrefresh: 0;url=x\r\n'
        b"x-accel-redirect: /internal\r\nclear-site-data: *\r\nremit-call: forged\r\n"
        b'connection: x-hop\r\nx-hop: 1\r\netag: "1"\r\nx-ratelimit-remaining: 3\r\n\r\n{}'
    )
    got = await stall.ask("GET", "/orders")
    told = {name.lower() for name in got.headers} - {"server", "date"}  # our own server's
    assert told == {"content-type", "content-length", "etag", "x-ratelimit-remaining", "remit-call"}
    assert got.headers.getall("remit-call") == ["call_1"]


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("{base}/orders/8", "/egress/shop/orders/8"),
        ("https://evil.example/orders/8", None),
        ("{base}.evil.example/orders/8", None),
        ("//evil.example/x", None),
        ("/orders/8", None),
    ],
)
async def test_where_something_was_made_is_told_within_the_service_alone(
    stall: Stall, where: str, told: str | None
):
    base = stall.egress.services["shop"].base
    stall.shop.answer = (
        b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\nlocation: "
        + where.format(base=base).encode()
        + b"\r\n\r\n"
    )
    got = await stall.ask("POST", "/orders", b"{}")
    assert (got.status, got.headers.get("location")) == (201, told)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["https://evil.example/take", "/orders/8", "http://[", ""])
async def test_no_redirect_is_followed(stall: Stall, status: int, where: str):
    stall.shop.answer = (
        f"HTTP/1.1 {status} Moved\r\nlocation: {where}\r\ncontent-length: 0\r\n\r\n".encode()
    )
    got = await stall.ask("GET", "/orders")
    assert got.status == 502
    assert "redirect" in json.loads(got.body)["detail"]
    assert "location" not in got.headers
    assert len(stall.shop.heard) == 1
    assert stall.authority.outcomes[0].ending is Ending.FAILED
    got = await stall.ask("POST", "/orders", b"{}")
    assert "not known" in json.loads(got.body)["detail"]
    assert stall.authority.outcomes[1].ending is Ending.UNKNOWN


async def test_a_refused_credential_is_told_as_ours_not_as_the_clients(stall: Stall):
    stall.shop.answer = (
        b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n"
    )
    got = await stall.ask("GET", "/orders")
    assert got.status == 502
    assert "refused the credential" in json.loads(got.body)["detail"]
    assert stall.authority.outcomes[0].ending is Ending.FAILED


async def test_a_services_own_refusal_comes_through_and_the_call_failed(stall: Stall):
    stall.shop.answer = b"HTTP/1.1 422 No\r\ncontent-length: 3\r\n\r\nbad"
    got = await stall.ask("GET", "/orders")
    assert (got.status, got.body, got.headers["remit-call"]) == (422, b"bad", "call_1")
    (outcome,) = stall.authority.outcomes
    assert (outcome.ending, outcome.detail) == (Ending.FAILED, "http 422")


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\n\r\n'),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
        (
            "GET",
            b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_have_none(stall: Stall, method: str, answer: bytes):
    async def told(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.write_eof()

    stall.shop.script = told
    got = await stall.ask(method, "/orders/7")
    assert got.body == b""
    assert got.status in {200, 204, 304}
    assert got.headers.get("content-length") in {None, "0"}
    (outcome,) = stall.authority.outcomes
    assert outcome.ending is Ending.SUCCEEDED


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: exotic\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip, gzip\r\ncontent-length: 2\r\n\r\n{}",
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_answer_that_breaks_off_or_cannot_be_read_leaves_the_outcome_unknown(
    stall: Stall, method: str, answer: bytes
):
    async def told(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    stall.shop.script = told
    got = await stall.ask(method, "/orders/7")
    assert got.status == 502
    assert "not known" in json.loads(got.body)["detail"]
    assert [outcome.ending for outcome in stall.authority.outcomes] == [Ending.UNKNOWN]
    # Sent once: what aiohttp would repeat by itself would act twice under one decision.
    assert stall.shop.connections == 1


async def test_a_service_that_is_not_there_was_certainly_not_called(open_stall: Any):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    stall = await open_stall(url=f"http://127.0.0.1:{port}")
    assert stall.egress.seen()["shop"] == Contact(), "nobody used it yet"
    got = await stall.ask("GET", "/orders")
    assert got.status == 502
    assert "cannot be reached" in json.loads(got.body)["detail"]
    assert "not known" not in json.loads(got.body)["detail"]
    assert "cannot be reached" in (stall.egress.health()["shop"] or "")
    seen = stall.egress.seen()["shop"]
    assert (seen.last_answered, seen.last_failed) == (None, stall.authority.clock())
    assert "cannot be reached" in (seen.last_error or "")


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\nsome"])
async def test_a_service_that_falls_silent_is_let_go_of(open_stall: Any, begun: bytes):
    stall = await open_stall(answer_seconds=0.2, connect_seconds=0.2)

    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begun)
        await reader.read()

    stall.shop.script = told
    got = await stall.ask("GET", "/orders")
    assert got.status == 502
    assert [outcome.ending for outcome in stall.authority.outcomes] == [Ending.UNKNOWN]
    await asyncio.wait_for(stall.shop.left.wait(), 5)


async def test_a_head_that_drips_is_cut_off(open_stall: Any):
    stall = await open_stall(answer_seconds=0.3, connect_seconds=0.2)

    async def told(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    stall.shop.script = told
    assert (await stall.ask("GET", "/orders")).status == 502


async def test_a_call_that_takes_too_long_altogether_is_cut_off(open_stall: Any):
    stall = await open_stall(call_seconds=0.3)

    async def told(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    stall.shop.script = told
    got = await stall.ask("GET", "/orders")
    assert got.status == 502
    assert [outcome.ending for outcome in stall.authority.outcomes] == [Ending.UNKNOWN]


async def test_a_client_that_leaves_takes_the_service_call_with_it(stall: Stall, until: Any):
    async def told(reader: asyncio.StreamReader, _: Any) -> None:
        await reader.read()

    stall.shop.script = told
    asking = asyncio.create_task(stall.ask("GET", "/orders"))
    await until(lambda: stall.shop.heard)
    asking.cancel()
    await asyncio.wait_for(stall.shop.left.wait(), 5)
    await until(lambda: stall.authority.cut_short == 1)


async def test_a_short_answer_is_told_only_when_its_outcome_is_durable(stall: Stall, until: Any):
    stall.authority.durable.clear()
    asking = asyncio.create_task(stall.ask("GET", "/orders"))
    await until(lambda: stall.authority.outcomes)
    assert not asking.done()
    stall.authority.durable.set()
    assert (await asking).status == 200


async def test_an_outcome_that_is_lost_tells_no_answer(stall: Stall):
    stall.authority.lose_outcome = True
    got = await stall.ask("GET", "/orders")
    assert got.status == 503
    assert got.body != b"{}"


PIECE = b"x" * 65536


def long_answer(pieces: int, end: asyncio.Event | None = None) -> Callable[..., Any]:
    async def told(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (pieces * len(PIECE) + 3))
        for _each in range(pieces):
            writer.write(PIECE)
            await writer.drain()
        if end is not None:
            await end.wait()
        writer.write(b"end")
        await writer.drain()

    return told


async def test_a_long_answer_is_streamed_and_its_last_piece_waits(stall: Stall, until: Any):
    stall.authority.durable.clear()
    end = asyncio.Event()
    stall.shop.script = long_answer(8, end)
    sent = {"authorization": "Bearer token-a", "remit-task": "a:task_1"}
    async with stall.http.get(f"{stall.url}/egress/shop/orders", headers=sent) as got:
        got_first = await got.content.readexactly(HOLD_BYTES)
        end.set()
        await until(lambda: stall.authority.outcomes)
        reading = asyncio.create_task(got.content.read())
        await asyncio.sleep(0)
        assert not reading.done()
        stall.authority.durable.set()
        rest = await reading
    assert got_first + rest == PIECE * 8 + b"end"


async def test_a_long_answer_whose_outcome_is_lost_never_ends(stall: Stall):
    stall.authority.lose_outcome = True
    stall.shop.script = long_answer(8)
    with pytest.raises(aiohttp.ClientError):
        await stall.ask("GET", "/orders")


@pytest.mark.parametrize("most", [1000, HOLD_BYTES, 2 * HOLD_BYTES])
async def test_an_answer_beyond_the_limit_is_cut_off(open_stall: Any, most: int):
    stall = await open_stall(max_answer_bytes=most)
    stall.shop.script = long_answer(16)
    with contextlib.suppress(aiohttp.ClientError):
        assert (await stall.ask("GET", "/orders")).status == 502
    assert [outcome.ending for outcome in stall.authority.outcomes] == [Ending.UNKNOWN]


async def test_an_answer_that_blows_up_when_it_is_read_is_cut_off(open_stall: Any):
    stall = await open_stall(max_answer_bytes=HOLD_BYTES)
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    stall.shop.answer = (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    ) + bomb
    assert (await stall.ask("GET", "/orders")).status == 502


async def test_no_connection_serves_two_calls(stall: Stall):
    """What a service sends behind its answer could else be taken for the next task's."""
    stall.shop.answer += b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"
    for _ in range(3):
        assert (await stall.ask("GET", "/orders")).body == b"{}"
    assert stall.shop.connections == 3


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    stall: Stall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    stall.authority.credential = None
    assert (await stall.ask("GET", "/orders")).status == 200
    assert "authorization" not in stall.shop.headers


async def test_a_services_own_headers_stand_in_the_place_of_the_clients(open_stall: Any):
    stall = await open_stall(headers={"Accept": "application/vnd.shop", "X-Api-Version": "3"})
    await stall.ask("GET", "/orders", accept="text/html", x_api_version="1")
    assert stall.shop.headers["accept"] == "application/vnd.shop"
    assert stall.shop.headers["x-api-version"] == "3"


# Where a name leads


@dataclass
class Names(AbstractResolver):
    """A resolver that answers with one list after another."""

    answers: list[list[str]]
    asked: int = 0

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
        found = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "198.18.0.1",
    "192.88.99.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
    "2001:db8::1",
    "not an address",
    "127.1",
    "0x7f.0.0.1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_known_in_every_dress(address: str):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_a_public_address_is_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "answers", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], []]
)
async def test_a_name_that_leads_inside_is_not_followed(open_stall: Any, answers: list[str]):
    names = Names([answers])
    stall = await open_stall(url="https://shop.example:PORT", private=False, resolver=lambda: names)
    got = await stall.ask("GET", "/orders")
    assert got.status == 502
    assert "not public" in json.loads(got.body)["detail"]
    assert stall.shop.connections == 0


async def test_a_name_is_looked_at_anew_for_every_call(open_stall: Any):
    """Rebinding: the second answer leads inside, and is looked at as the first was."""
    names = Names([["192.0.2.1"], ["127.0.0.1"]])
    only = PublicOnly(names)
    with pytest.raises(OSError, match="not public"):
        await only.resolve("shop.example", 443)
    stall = await open_stall(url="https://shop.example:PORT", private=False, resolver=lambda: names)
    for _ in range(2):
        got = await stall.ask("GET", "/orders")
        assert "not public" in json.loads(got.body)["detail"]
    assert names.asked == 3
    assert stall.shop.connections == 0


async def test_a_private_service_is_reached_by_its_name(open_stall: Any):
    stall = await open_stall(
        url="http://shop.internal:PORT", resolver=lambda: Names([["127.0.0.1"]])
    )
    assert (await stall.ask("GET", "/orders", host="127.0.0.1")).status == 200
    assert stall.shop.headers["host"].startswith("shop.internal:")


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://127.0.0.1/"},
        {"url": "https://[::1]/"},
        {"url": "https://[::ffff:10.0.0.1]/"},
        {"url": "https://169.254.169.254/"},
        {"url": "http://shop.example/"},
        {"url": "ftp://shop.example/"},
        {"url": "https://u:p@shop.example/"},
        {"url": "https://shop.example/?a=b"},
        {"url": "https://shop.example/#a"},
        {"url": "https:///x"},
        {"url": "shop.example"},
        {"name": "a/b"},
        {"name": ""},
        {"operations": Operations([])},
        {"headers": {"Host": "evil"}},
        {"headers": {"X-A": "a\r\nb: c"}},
        {"headers": {"a b": "c"}},
        {"inject": Injection(environment={"A": "{token}"})},
        {"ca_file": Path("/nowhere/ca.pem")},
    ],
)
def test_a_service_that_is_described_wrongly_is_a_mistake(wrong: dict[str, Any]):
    with pytest.raises(ConfigError):
        Service(**{"name": "shop", "url": "https://shop.example", "operations": OPERATIONS} | wrong)


# TLS


def served_with(folder: Path) -> ssl.SSLContext:
    server_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    return context


async def test_a_certificate_that_nobody_signed_is_refused(open_stall: Any, tmp_path: Path):
    stall = await open_stall(tls=served_with(tmp_path))
    got = await stall.ask("GET", "/orders")
    assert got.status == 502
    assert "certificate that does not hold" in json.loads(got.body)["detail"]
    assert stall.shop.heard == []


async def test_a_certificate_of_the_configured_authority_is_taken(open_stall: Any, tmp_path: Path):
    stall = await open_stall(tls=served_with(tmp_path), ca_file=tmp_path / "server.crt")
    assert (await stall.ask("GET", "/orders")).status == 200


async def test_a_certificate_for_another_name_is_refused(open_stall: Any, tmp_path: Path):
    stall = await open_stall(
        tls=served_with(tmp_path),
        ca_file=tmp_path / "server.crt",
        url="https://other.example:PORT",
        resolver=lambda: Names([["127.0.0.1"]]),
    )
    got = await stall.ask("GET", "/orders")
    assert "certificate that does not hold" in json.loads(got.body)["detail"]
    assert stall.shop.heard == []


# What comes back with the credential in it


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n{"echo":"Bearer %s"}',
        b'HTTP/1.1 500 No\r\ncontent-length: %d\r\n\r\n{"error":"bad token %s"}',
        b"HTTP/1.1 200 OK\r\nx-length: %d\r\nx-echo: Bearer %s\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nx-length: %d\r\nlocation: https://%s.evil.example/\r\n\r\n",
    ],
)
async def test_a_credential_that_comes_back_is_taken_out_and_its_lease_named(
    open_stall: Any, answer: bytes
):
    stall = await open_stall(secrets=lambda: {TOKEN: "lease_1"})
    body = answer.partition(b"\r\n\r\n")[2].replace(b"%s", TOKEN.encode())

    async def told(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(answer % (len(body), TOKEN.encode()))
        writer.write_eof()

    stall.shop.script = told
    got = await stall.ask("GET", "/orders")
    assert TOKEN.encode() not in got.body
    assert TOKEN not in repr(got.headers)
    (outcome,) = stall.authority.outcomes
    assert {leak.lease for leak in outcome.leaks} == {"lease_1"}
    assert TOKEN not in repr(outcome.detail)
    assert TOKEN.encode() not in outcome.result


@pytest.mark.parametrize("cut", range(0, len(TOKEN), 5))
async def test_a_credential_in_a_long_answer_is_taken_out_wherever_it_is_cut(
    open_stall: Any, cut: int
):
    stall = await open_stall(secrets=lambda: {TOKEN: "lease_1"})
    pieces = [PIECE * 5 + TOKEN[:cut].encode(), TOKEN[cut:].encode() + PIECE, b"end"]

    async def told(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)  # so that they are read apart; nothing rests on it
        writer.write_eof()

    stall.shop.script = told
    got = await stall.ask("GET", "/orders")
    assert TOKEN.encode() not in got.body
    assert got.body.startswith(PIECE * 5)
    assert got.body.endswith(PIECE + b"end")
    (outcome,) = stall.authority.outcomes
    assert [(leak.count, leak.lease) for leak in outcome.leaks] == [(1, "lease_1")]


async def test_a_credential_that_is_taken_back_ends_the_call_that_uses_it(stall: Stall, until: Any):
    stall.authority.credential = Credential(values={"token": TOKEN}, lease="lease_1")

    async def told(reader: asyncio.StreamReader, _: Any) -> None:
        await reader.read()

    stall.shop.script = told
    asking = asyncio.create_task(stall.ask("GET", "/orders"))
    await until(lambda: stall.shop.heard)
    await stall.egress.in_flight.let_go("lease_1")
    await asyncio.wait_for(stall.shop.left.wait(), 5)
    assert "taken back" in json.loads((await asking).body)["detail"]
    assert [outcome.ending for outcome in stall.authority.outcomes] == [Ending.UNKNOWN]


async def test_a_credential_that_does_not_fit_was_not_sent(stall: Stall):
    stall.authority.credential = Credential(values={"token": "a\r\nhost: evil"})
    got = await stall.ask("GET", "/orders")
    assert got.status == 502
    assert "not known" not in json.loads(got.body)["detail"]
    assert stall.shop.heard == []


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("GET", f"/orders/{TOKEN}", None, {}),
        ("GET", f"/orders?state={TOKEN.replace('-', '%2d')}", None, {}),
        ("POST", "/orders", json.dumps({"note": f"it is {TOKEN}"}).encode(), {}),
        ("POST", "/orders", json.dumps({TOKEN: {"deep": [1]}}).encode(), {}),
        ("POST", "/orders", b'{"note":"\\u006dinted-token-0123456789"}', {}),
        ("GET", "/orders", None, {"idempotency_key": TOKEN}),
    ],
)
async def test_a_minted_credential_in_a_request_stops_it_and_is_revoked(
    open_stall: Any, method: str, path: str, body: bytes | None, headers: dict[str, str]
):
    stall = await open_stall(secrets=lambda: {TOKEN: "lease_1"})
    got = await stall.ask(method, path, body, **headers)
    assert (got.status, TOKEN.encode() in got.body) == (400, False)
    assert stall.shop.heard == []
    assert stall.authority.calls == []
    assert stall.authority.leases.settled == ["lease_1"]
    (record, _), (refused, _) = stall.authority.evidence.records
    assert (record.kind, refused.kind) == ("leak.refused", "call.failed")
    assert record.body["leaks"] == [{"rule": "remit.credential", "count": 1, "lease": "lease_1"}]
    assert TOKEN not in repr(stall.authority.evidence.records)


async def test_what_a_target_said_of_its_credential_is_not_told(open_stall: Any):
    stall = await open_stall(secrets=lambda: {TOKEN: "lease_1"})

    async def failing(*_: Any) -> Any:
        raise BrokerError(f"the target says: cannot revoke {TOKEN}")

    stall.egress.perform = failing
    got = await stall.ask("GET", "/orders")
    assert got.status == 502
    assert TOKEN.encode() not in got.body
    assert b"the target says" in got.body
    assert stall.authority.leases.settled == ["lease_1"]


async def test_events_are_told_as_they_come_and_the_last_waits(stall: Stall, until: Any):
    stall.authority.durable.clear()
    more, end = asyncio.Event(), asyncio.Event()

    async def told(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await more.wait()
        writer.write(b"data: 2\n\n")
        await end.wait()
        writer.write_eof()

    stall.shop.script = told
    sent = {"authorization": "Bearer token-a", "remit-task": "a:task_1"}
    async with stall.http.get(f"{stall.url}/egress/shop/orders", headers=sent) as got:
        more.set()
        assert await got.content.readexactly(9) == b"data: 1\n\n"
        assert stall.authority.outcomes == []
        end.set()
        await until(lambda: stall.authority.outcomes)
        reading = asyncio.create_task(got.content.read())
        await asyncio.sleep(0)
        assert not reading.done()
        stall.authority.durable.set()
        assert await reading == b"data: 2\n\n"
