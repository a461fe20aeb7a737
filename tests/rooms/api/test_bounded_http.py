"""What a client may take of a port, over real sockets: heads, bodies, time and connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from remit.api.bounded_http import BoundedHttp


class Hasty(BoundedHttp):
    head_seconds = 0.2
    body_seconds = 0.2


class App:
    """Tells what it was asked, streams while it is told to, and keeps what it saw."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[tuple[bytes, bytes]], bytes]] = []
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        if scope["path"] == "/early":
            await self._say(send, b"no")
            return
        while True:
            event = await receive()
            if event["type"] != "http.request":
                self.left.set()
                return
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        self.asked.append((scope["path"], list(scope["headers"]), body))
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await self.go_on.wait()
            await send({"type": "http.response.body", "body": b"two"})
            return
        await self._say(send, b"ok")

    async def _say(self, send: Any, body: bytes) -> None:
        head = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def served(app: App, http: type[BoundedHttp] = Hasty, most: int = 10) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=http, ws="none", lifespan="off", log_config=None, limit_concurrency=most
    )
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server._serve([listener]))
    while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        app.go_on.set()
        server.should_exit = server.force_exit = True
        await running


async def told(port: int, *pieces: bytes) -> tuple[int, bytes]:
    """Send, and return the answer's status and what followed, once the other side has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        for piece in pieces:
            writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        answer = await reader.read()
    writer.close()
    if not answer:
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
ENDLESS = {
    "a value": (HEAD + b"a: ", b"x" * 300_000),
    "a name": (HEAD, b"x" * 300_000),
    "a target": (b"GET /", b"x" * 300_000),
    "many headers": (HEAD, b"a: b\r\n" * 60_000),
    "line breaks": (b"\r\n" * 150_000,),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_a_head_without_an_end_is_refused_and_the_client_reads_why(what: str):
    app = App()
    async with served(app, BoundedHttp) as port:
        status, body = await told(port, *ENDLESS[what])
    assert status == 431
    assert json.loads(body)["error"]["code"] == "head_too_large"
    assert app.asked == []


async def test_a_head_just_below_the_bound_is_served():
    app = App()
    async with served(app, BoundedHttp) as port:
        filler = b"a: " + b"x" * (60 * 1024) + b"\r\nconnection: close\r\n\r\n"
        assert await told(port, HEAD + filler) == (200, b"ok")


SLOW = {
    "half a head": (HEAD, 408),
    "half a line": (b"GE", 408),
    "nothing": (b"", 0),
    "half a body": (POST + b"content-length: 10\r\n\r\nabc", 408),
    "half a chunk": (POST + b"transfer-encoding: chunked\r\n\r\n5\r\nab", 408),
    "no trailer's end": (POST + b"transfer-encoding: chunked\r\n\r\n0\r\na: ", 408),
    "a body after its answer": (
        b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n",
        200,
    ),
}


@pytest.mark.parametrize("what", SLOW)
async def test_what_does_not_come_in_time_is_refused_and_the_connection_closed(what: str):
    app = App()
    sent, status = SLOW[what]
    async with served(app) as port:
        assert (await told(port, sent))[0] == status
    assert app.asked == []


async def test_a_byte_now_and_then_buys_no_time():
    async with served(App()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"content-length: 1000\r\n\r\n")
        answered = asyncio.ensure_future(reader.read())
        async with asyncio.timeout(10):
            while not answered.done():
                writer.write(b"x")
                await asyncio.wait({answered}, timeout=0.02)
        assert answered.result().startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_an_application_that_waits_for_a_body_hears_that_it_never_comes():
    app = App()
    async with served(app) as port:
        await told(port, POST + b"content-length: 10\r\n\r\nabc")
        async with asyncio.timeout(5):
            await app.left.wait()


async def test_a_body_that_comes_steadily_has_the_time_it_needs():
    class Rated(Hasty):
        body_rate = 100

    app = App()
    async with served(app, Rated) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"connection: close\r\ncontent-length: 500\r\n\r\n")
        for _ in range(10):
            writer.write(b"x" * 50)
            await asyncio.sleep(0.04)
        assert (await reader.read()).endswith(b"ok")
        writer.close()
    assert app.asked[0][2] == b"x" * 500


async def test_framing_without_a_body_is_refused():
    async with served(App(), BoundedHttp) as port:
        head = POST + b"transfer-encoding: chunked\r\n\r\n"
        assert (await told(port, head, b"1;" + b"e" * 300_000))[0] == 400
        assert (await told(port, head, b"0\r\n", b"a: b\r\n" * 60_000))[0] == 400


async def test_a_trailer_is_no_header():
    app = App()
    trailed = (
        POST + b"connection: close\r\ntransfer-encoding: chunked\r\ntrailer: authorization\r\n\r\n"
        b"2\r\nhi\r\n0\r\nauthorization: Bearer stolen\r\n\r\n"
    )
    async with served(app, BoundedHttp) as port:
        assert (await told(port, trailed))[0] == 200
    path, headers, body = app.asked[0]
    assert (path, body) == ("/", b"hi")
    assert b"authorization" not in dict(headers)


SMUGGLED = {
    "two lengths": b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a length and chunks": b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks, then not": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a length with a sign": b"content-length: +1\r\n\r\na",
    "a space before the colon": b"content-length : 1\r\n\r\na",
    "a folded line": b"a: b\r\n content-length: 1\r\n\r\na",
    "a bare line feed in a value": b"a: b\nremit-task: x\r\n\r\n",
    "a nul": b"a: b\x00c\r\n\r\n",
    "an upgrade with a body": (
        b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 24\r\n\r\nGET /x HTTP/1.1\r\n\r\n..."
    ),
    "a chunk's size with a sign": b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
}


@pytest.mark.parametrize("what", SMUGGLED)
async def test_what_two_servers_could_frame_differently_is_refused(what: str):
    app = App()
    async with served(app) as port:
        status, body = await told(port, POST + SMUGGLED[what])
    assert (status, json.loads(body)["error"]["code"]) == (400, "bad_request")
    assert app.asked == []


async def test_what_follows_a_request_never_answers_in_its_place():
    app = App()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.readuntil(b"one\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"NOT HTTP\r\n\r\n")
            assert b"HTTP/1.1" not in await reader.read()
        writer.close()


async def test_a_slow_second_head_does_not_cut_the_first_answer():
    app = App()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n" + HEAD)
        async with asyncio.timeout(10):
            await reader.readuntil(b"one\r\n")
            await asyncio.sleep(3 * Hasty.head_seconds)
            app.go_on.set()
            assert (await reader.read()).endswith(b"two\r\n0\r\n\r\n")
        writer.close()


async def test_an_upgrade_is_ignored_and_what_follows_it_is_no_request():
    app = App()
    upgrade = HEAD + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    async with served(app) as port:
        assert await told(port, upgrade + HEAD + b"\r\n") == (200, b"ok")
        assert await told(port, upgrade, HEAD + b"\r\n") == (200, b"ok")
    assert len(app.asked) == 2


async def test_requests_that_wait_for_their_turn_are_few():
    app = App()
    async with served(app, BoundedHttp) as port:
        first = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n"
        assert (await told(port, first + (HEAD + b"\r\n") * 100))[0] in {0, 200}
    assert len(app.asked) <= 1


async def test_one_connection_too_many_is_told_so_and_the_others_are_served():
    app = App()
    async with served(app, BoundedHttp, most=3) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for reader, writer in held:
            writer.write(HEAD + b"\r\n")
            await reader.readuntil(b"ok")
        status, body = await told(port, HEAD + b"\r\n")
        assert (status, json.loads(body)["error"]["code"]) == (503, "too_many_connections")
        reader, writer = held.pop()
        writer.write(HEAD + b"connection: close\r\n\r\n")
        await reader.read()
        writer.close()
        assert await told(port, HEAD + b"connection: close\r\n\r\n") == (200, b"ok")
        for _, other in held:
            other.close()
