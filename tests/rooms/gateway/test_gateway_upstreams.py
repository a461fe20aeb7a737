"""An upstream that is an attacker: what it says in odd ways, slowly, or where it should not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from remit.gateway.options import UpstreamOptions
from remit.gateway.sse import EventReader

CALL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}'
PING = '{"jsonrpc":"2.0","id":2,"method":"ping"}'
LIST = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
TOOLS = b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"hidden","inputSchema":{}}]}}'
STREAM = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


async def say(send: Any, *pieces: bytes, head: list[tuple[bytes, bytes]] = STREAM) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": head})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def saying(*pieces: bytes, head: list[tuple[bytes, bytes]] = STREAM) -> Any:
    async def script(request: Any, receive: Any, send: Any) -> None:
        await say(send, *pieces, head=head)

    return script


DISGUISES = {
    "a byte order mark before it": b"\xef\xbb\xbf" + event(RESULT),
    "a method beside the result": event(RESULT[:-1] + b',"method":"notifications/progress"}'),
    "carriage returns": b"data:" + RESULT + b"\r\r",
    "an event of another name": b"event: endpoint\ndata: " + RESULT + b"\n\n",
    "a line break inside it": event(RESULT.replace(b'"id"', b'\ndata: "id"')),
}


@pytest.mark.parametrize("how", DISGUISES)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_response_in_disguise_waits_for_the_outcome_all_the_same(
    plain: Any, recorder: Any, until: Any, how: str, size: int
):
    raw = DISGUISES[how]
    recorder.script = saying(*(raw[at : at + size] for at in range(0, len(raw), size)))
    plain.authority.durable.clear()
    posted = asyncio.create_task(plain.post(CALL))
    await until(lambda: bool(plain.authority.outcomes) or posted.done())
    assert not posted.done()
    plain.authority.durable.set()
    assert b'"result"' in (await posted).body


async def test_a_listing_in_disguise_is_cut_all_the_same(plain: Any, recorder: Any):
    plain.authority.policy.hidden.add("up/hidden")
    shown = {}
    for how, raw in DISGUISES.items():
        recorder.script = saying(raw.replace(b'"content":[]', TOOLS[34:-2]))
        got = await plain.post(LIST)
        shown[how] = b"hidden" in got.body
    assert shown == dict.fromkeys(DISGUISES, False)


@contextlib.asynccontextmanager
async def session_of(plain: Any, recorder: Any, script: Any) -> AsyncIterator[str]:
    async def first(request: Any, receive: Any, send: Any) -> None:
        head = [*JSON, (b"mcp-session-id", b"s1")]
        await say(send, b'{"jsonrpc":"2.0","id":0,"result":{}}', head=head)

    recorder.script = first
    await plain.post('{"jsonrpc":"2.0","id":0,"method":"initialize"}')
    recorder.script = script
    yield "s1"


async def test_a_listing_on_another_stream_is_not_let_through(plain: Any, recorder: Any):
    for sneaked in (TOOLS, TOOLS.replace(b"tools", b"\\u0074ools")):
        ways = {
            "a stream of a ping": saying(event(sneaked)),
            "the answer of a ping": saying(sneaked, head=JSON),
            "a batch": saying(event(b"[" + sneaked + b"]")),
        }
        for how, script in ways.items():
            async with session_of(plain, recorder, script) as session:
                got = await plain.post(PING, mcp_session_id=session)
                assert b"hidden" not in got.body, how
                headers = {"authorization": "Bearer token-a", "remit-task": "a:task_1"}
                headers |= {"mcp-session-id": session, "last-event-id": "1"}
                async with plain.http.get(f"{plain.url}/mcp/up", headers=headers) as stream:
                    # Broken off is as good.
                    with contextlib.suppress(aiohttp.ClientError):
                        assert b"hidden" not in await stream.read(), how
            plain.gateway.house.sessions.close("up", "s1")


async def test_a_response_on_another_requests_stream_waits_too(
    plain: Any, recorder: Any, until: Any
):
    primed = b"id: 1\ndata: \n\n"

    async def script(request: Any, receive: Any, send: Any) -> None:
        await say(send, event(RESULT) if b"ping" in request["body"] else primed)

    async with session_of(plain, recorder, script) as session:
        plain.authority.durable.clear()
        await plain.post(CALL, mcp_session_id=session)
        pinged = asyncio.create_task(plain.post(PING, mcp_session_id=session))
        await until(lambda: bool(plain.authority.outcomes) or pinged.done())
        assert not pinged.done()
        plain.authority.durable.set()
        assert (await pinged).body == event(RESULT)


async def test_what_has_no_end_is_no_response(plain: Any, recorder: Any):
    recorder.script = saying(b"id: 1\ndata: \n\n", b"data: " + RESULT + b"\n")
    async with session_of(plain, recorder, recorder.script) as session:
        got = await plain.post(CALL, mcp_session_id=session)
        assert got.body == b"id: 1\ndata: \n\n"


async def test_an_id_that_is_none_breaks_no_stream(plain: Any, recorder: Any):
    odd = b"".join(event(RESULT.replace(b"1,", each + b",")) for each in (b"{}", b"[]", b"1.5"))
    async with session_of(plain, recorder, saying(odd, event(b"not json"), event(b"7"))) as session:
        got = await plain.post(PING, mcp_session_id=session)
        assert (got.status, got.body.count(b"data: ")) == (200, 5)


@given(st.lists(st.integers(1, 9), min_size=1), st.booleans())
def test_events_are_the_same_however_they_are_cut(sizes: list[int], marked: bool):
    raw = b": ping\r\n\r\nid: 1\ndata: a\ndata: b\n\ndata:c\r\rdata: d\r\n\r\n\ndata: e\n\nrest"
    sent = (b"\xef\xbb\xbf" if marked else b"") + raw
    reader, found, at, turn = EventReader(1000), [], 0, 0
    while at < len(sent):
        size = sizes[turn % len(sizes)]
        found += [each.data for each in reader.feed(sent[at : at + size]) if each.data]
        at, turn = at + size, turn + 1
    assert found == [b"a\nb", b"c", b"d", b"e"]
    assert reader.rest == b"rest"


@contextlib.asynccontextmanager
async def tcp(serve: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await serve(reader, writer)
        except ConnectionError:
            return

    server = await asyncio.start_server(met, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


def without_end(piece: bytes, pause: float) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return serve


@pytest.mark.parametrize("what", [(b"x-a: b\r\n", 0.01), (b"x" * 4096, 0.0)], ids=["slow", "large"])
async def test_a_head_without_an_end_is_given_up(stand: Any, what: tuple[bytes, float]):
    async with tcp(without_end(*what)) as port:
        up = UpstreamOptions(
            name="up",
            url=f"http://127.0.0.1:{port}/mcp",
            answer_seconds=0.2,
            connect_seconds=0.2,
        )
        async with stand(up) as made:
            result = json.loads((await made.post(CALL)).body)["result"]
            assert result["isError"]
            assert made.gateway.health()["up"] is not None


def answering(*lines: bytes) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = b"content-length: %d" % len(RESULT)
        rest = (b"content-type: application/json", length, b"connection: close", b"", RESULT)
        writer.write(b"\r\n".join((*lines, *rest)))
        await writer.drain()
        writer.close()

    return serve


ODD = {
    "a status of three nines": b"HTTP/1.1 999 Odd",
    "a status of six hundred": b"HTTP/1.1 600 Odd",
    "a control character": b"HTTP/1.1 200 OK\r\nx-a: a\x01b",
    "a nul": b"HTTP/1.1 200 OK\r\nx-a: a\x00b",
    "a tab": b"HTTP/1.1 200 OK\r\nx-a: a\tb",
    "a name that is none": b"HTTP/1.1 200 OK\r\nx(a): b",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 3",
    "a length and chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked",
    "two types": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream",
    "a coding": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip",
    "no http": b"SSH-2.0-OpenSSH",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade",
}


@pytest.mark.parametrize("how", ODD)
async def test_an_answer_that_is_odd_http_is_an_answer_or_a_clear_failure(stand: Any, how: str):
    async with tcp(answering(ODD[how])) as port:
        up = UpstreamOptions(name="up", url=f"http://127.0.0.1:{port}/mcp", answer_seconds=2)
        async with stand(up) as made:
            got = await made.post(CALL)
    assert got.status == 200
    assert b'"result"' in got.body
    assert "\x01" not in str(got.headers)
    assert len(made.authority.outcomes) == 1


async def test_a_certificate_that_nobody_vouches_for_is_no_upstream(stand: Any, tmp_path: Path):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(_certificate(tmp_path))
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1))

    async with (
        tcp(serve, tls) as port,
        stand(UpstreamOptions(name="up", url=f"https://127.0.0.1:{port}/mcp")) as made,
    ):
        result = json.loads((await made.post(CALL)).body)["result"]
    assert "certificate that does not hold" in result["content"][0]["text"]
    assert heard == []


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "up")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, SHA256())
    )
    file = folder / "up.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return file
