"""An MCP server that gives its credential away, in every place where a client could read it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from remit.model.lease import Credential

TOKEN = "minted-token-0123456789"
REMOVED = b"[removed by remit: remit.credential]"
INITIALIZE = '{"jsonrpc":"2.0","id":0,"method":"initialize"}'
CALL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}'
SSE = [(b"content-type", b"text/event-stream")]
SESSION = [(b"content-type", b"application/json"), (b"mcp-session-id", b"s1")]


def result(text: str, request_id: int = 1) -> bytes:
    content = [{"type": "text", "text": text}]
    message = {"jsonrpc": "2.0", "id": request_id, "result": {"content": content}}
    return json.dumps(message).encode()


def event(data: bytes, event_id: str | None = None) -> bytes:
    head = b"" if event_id is None else f"id: {event_id}\n".encode()
    return head + b"data: " + data + b"\n\n"


def progress(text: str) -> bytes:
    params = {"progressToken": 1, "progress": 1, "message": text}
    return json.dumps(
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
    ).encode()


@pytest.fixture
def leaky(plain: Any) -> Any:
    """The gateway, whose upstream is given the token and is known to hold it."""
    plain.authority.credential = Credential(values={"token": TOKEN}, lease="lease_1")
    plain.authority.leases.alive = {TOKEN: "lease_1"}
    return plain


async def told(send: Any, body: bytes, headers: Any = None, status: int = 200) -> None:
    head = headers or [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def in_pieces(send: Any, pieces: list[bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": SSE})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


def injected(request: dict[str, Any]) -> str:
    """Return the token as the upstream was given it."""
    value = dict(request["headers"])["authorization"]
    assert value == f"Bearer {TOKEN}"
    return value.removeprefix("Bearer ")


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


ANSWERS: dict[str, Callable[[Any, str], Any]] = {
    "a result": lambda send, token: told(send, result(f"use {token}")),
    "a failed result": lambda send, token: told(
        send, result(f"bad {token}").replace(b'"content"', b'"isError":true,"content"')
    ),
    "an error": lambda send, token: told(
        send,
        json.dumps(
            {
                "jsonrpc": "2.0",
                "id": 1,
                "error": {"code": -32000, "message": f"no {token}", "data": {token: [token]}},
            }
        ).encode(),
    ),
    "an answer that is no json": lambda send, token: told(send, f"oops {token}".encode()),
    "an http error": lambda send, token: told(send, result(token), status=500),
    "a header": lambda send, token: told(
        send,
        result("fine"),
        [(b"content-type", b"application/json"), (b"x-echo", token.encode())],
    ),
    "a progress notification": lambda send, token: in_pieces(
        send, [event(progress(f"with {token}")), event(result("done"))]
    ),
    "a stream's last event": lambda send, token: in_pieces(
        send, [event(progress("going")), event(result(token))]
    ),
    "what comes behind the last event": lambda send, token: in_pieces(
        send, [event(result("done")) + event(progress(token)) + f": {token}".encode()]
    ),
    "a stream in small pieces": lambda send, token: in_pieces(
        send, cut(event(progress(token)) + event(result(token)), 3)
    ),
    "base64": lambda send, token: told(
        send, result(base64.b64encode(f"Basic user:{token}!".encode()).decode())
    ),
    "escapes": lambda send, token: told(
        send, result("X").replace(b"X", "".join(f"\\u{ord(c):04x}" for c in token).encode())
    ),
}


@pytest.mark.parametrize("where", ANSWERS)
async def test_a_credential_in_an_answer_is_taken_out_recorded_and_revoked(
    leaky: Any, recorder: Any, where: str
):
    async def script(request: dict[str, Any], _: Any, send: Any) -> None:
        await ANSWERS[where](send, injected(request))

    recorder.script = script
    got = await leaky.post(CALL)
    everything = got.body + repr(list(got.headers.items())).encode()
    assert TOKEN.encode() not in everything
    assert TOKEN not in json.dumps(got.text.encode().decode("unicode_escape"))
    assert base64.b64encode(TOKEN.encode())[:12] not in everything
    assert REMOVED in everything
    (outcome,) = leaky.authority.outcomes
    assert {leak.lease for leak in outcome.leaks} == {"lease_1"}
    assert TOKEN.encode() not in outcome.result
    assert TOKEN not in repr(outcome.record())


async def test_an_answer_that_breaks_off_tells_nothing_of_its_credential(leaky: Any, recorder: Any):
    async def script(request: dict[str, Any], _: Any, send: Any) -> None:
        token = injected(request).encode()
        await in_pieces(send, [event(progress("going")), b"data: " + token])

    recorder.script = script
    got = await leaky.post(CALL)
    assert TOKEN.encode() not in got.body
    assert TOKEN not in repr([outcome.record() for outcome in leaky.authority.outcomes])


async def settled(leaky: Any, until: Any) -> None:
    """Wait until what was seen outside a call was recorded and its lease revoked."""
    authority = leaky.authority
    await until(lambda: authority.leases.settled)
    assert set(authority.leases.settled) == {"lease_1"}
    found = [step for step, _ in authority.evidence.records if step.kind == "leak.removed"]
    assert found
    assert found[0].body["upstream"] == "up"
    assert TOKEN not in repr(authority.evidence.records)


@pytest.mark.parametrize("method", ["initialize", "tools/list", "prompts/list", "ping"])
@pytest.mark.parametrize("shape", ["json", "stream", "header"])
async def test_a_credential_outside_a_call_is_taken_out_recorded_and_revoked(
    leaky: Any, recorder: Any, until: Any, method: str, shape: str
):
    tools = [{"name": "echo", "description": f"uses {TOKEN}", "inputSchema": {"type": "object"}}]
    body = {"jsonrpc": "2.0", "id": 1, "result": {"tools": tools, "text": TOKEN}}

    async def script(_: Any, __: Any, send: Any) -> None:
        data = json.dumps(body).encode()
        if shape == "stream":
            await in_pieces(send, cut(event(progress(TOKEN)) + event(data), 7))
        elif shape == "header":
            plain = json.dumps(body).replace(TOKEN, "x").encode()
            head = [(b"content-type", b"application/json"), (b"x-echo", TOKEN.encode())]
            await told(send, plain, head)
        else:
            await told(send, data)

    recorder.script = script
    got = await leaky.post(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}))
    assert TOKEN.encode() not in got.body + repr(list(got.headers.items())).encode()
    await settled(leaky, until)


async def test_a_credential_in_the_get_stream_is_taken_out_recorded_and_revoked(
    leaky: Any, recorder: Any, until: Any
):
    async def script(request: dict[str, Any], _: Any, send: Any) -> None:
        if request["method"] == "GET":
            await in_pieces(send, cut(event(progress(f"by the way: {TOKEN}"), "7"), 5))
        else:
            await told(send, result("hello", 0), SESSION)

    recorder.script = script
    opened = await leaky.post(INITIALIZE)
    headers = {
        "authorization": "Bearer token-a",
        "remit-task": "a:task_1",
        "mcp-session-id": opened.headers["mcp-session-id"],
        "mcp-protocol-version": "2025-11-25",
        "accept": "text/event-stream",
    }
    async with leaky.http.get(f"{leaky.url}/mcp/up", headers=headers) as got:
        body = await got.read()
    assert TOKEN.encode() not in body
    assert REMOVED in body
    assert b"id: 7" in body
    await settled(leaky, until)


async def test_a_credential_in_a_stream_that_is_resumed_is_taken_out_and_revoked(
    leaky: Any, recorder: Any, until: Any
):
    """The call's own stream ends early; its response comes on the stream that the client resumes."""

    async def script(request: dict[str, Any], _: Any, send: Any) -> None:
        if request["method"] == "GET":
            await in_pieces(send, [event(progress(TOKEN), "8"), event(result(TOKEN), "9")])
        elif b"initialize" in request["body"]:
            await told(send, result("hello", 0), SESSION)
        else:
            await in_pieces(send, [event(progress("going"), "7")])

    recorder.script = script
    opened = await leaky.post(INITIALIZE)
    session = opened.headers["mcp-session-id"]
    calling = asyncio.create_task(
        leaky.post(CALL, mcp_session_id=session, mcp_protocol_version="2025-11-25")
    )
    await until(lambda: len(recorder.heard) == 2)
    headers = {
        "authorization": "Bearer token-a",
        "remit-task": "a:task_1",
        "mcp-session-id": session,
        "mcp-protocol-version": "2025-11-25",
        "last-event-id": "7",
        "accept": "text/event-stream",
    }
    async with leaky.http.get(f"{leaky.url}/mcp/up", headers=headers) as got:
        body = await got.read()
    first = await calling
    assert TOKEN.encode() not in body + first.body
    assert body.count(REMOVED) == 2
    (outcome,) = leaky.authority.outcomes
    assert {leak.lease for leak in outcome.leaks} == {"lease_1"}
    await settled(leaky, until)


@pytest.mark.parametrize(
    "message",
    [
        {"method": "tools/call", "params": {"name": "echo", "arguments": {"text": TOKEN}}},
        {"method": "tools/call", "params": {"name": "echo", "arguments": {TOKEN: 1}}},
        {"method": "tools/call", "params": {"name": TOKEN, "arguments": {}}},
        {"method": "tools/call", "params": {"name": "echo", "_meta": {"x": [TOKEN]}}},
        {
            "method": "tools/call",
            "params": {"name": "echo", "arguments": {"t": TOKEN.encode().hex()}},
        },
        {"method": "resources/read", "params": {"uri": f"file:///{TOKEN}"}},
        {"method": "completion/complete", "params": {"argument": {"value": TOKEN}}},
    ],
)
async def test_a_credential_that_comes_back_in_stops_the_message_and_is_revoked(
    leaky: Any, recorder: Any, message: dict[str, Any]
):
    got = await leaky.post(json.dumps({"jsonrpc": "2.0", "id": 1, **message}))
    assert "holds a credential that remit minted" in got.text
    assert TOKEN not in got.text
    assert recorder.heard == []
    assert leaky.authority.calls == []
    assert leaky.authority.leases.settled == ["lease_1"]
    kinds = leaky.authority.evidence.kinds
    assert "leak.refused" in kinds
    assert leaky.authority.evidence.durable == len(kinds)
    assert TOKEN not in repr(leaky.authority.evidence.records)


async def test_a_notification_with_a_credential_goes_no_further(leaky: Any, recorder: Any):
    params = {"reason": TOKEN, "requestId": 1}
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
    await leaky.post(json.dumps(message))
    assert recorder.heard == []
