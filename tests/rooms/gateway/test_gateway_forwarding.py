"""What is held back, what goes on at once, and what happens when one side goes away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from remit.gateway.options import UpstreamOptions
from remit.model.lease import Credential
from remit.model.outcome import Ending

CALL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}'
STREAM = [(b"content-type", b"text/event-stream"), (b"mcp-extra", b"1")]
PROGRESS = b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\r\n\r\n'
FINAL = b'id: 9\nevent: message\ndata: {"jsonrpc":"2.0",\ndata: "id":1,"result":{"content":[]}}\n\n'
HEADERS = {
    "authorization": "Bearer token-a",
    "remit-task": "a:task_1",
    "content-type": "application/json",
}


def streamed(*pieces: bytes, then: asyncio.Event | None = None, end: bool = True) -> Any:
    async def script(request: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if then is not None:
            await then.wait()
        if end:
            await send({"type": "http.response.body", "body": b""})

    return script


async def test_the_response_waits_for_the_outcome_while_progress_goes_on(
    plain: Any, recorder: Any, until: Any
):
    recorder.script = streamed(PROGRESS, b": ping\r\n\r\n", FINAL)
    plain.authority.durable.clear()
    async with plain.http.post(f"{plain.url}/mcp/up", data=CALL, headers=HEADERS) as got:
        assert got.headers["mcp-extra"] == "1"
        early = b": ping\r\n\r\n"
        assert await got.content.readexactly(len(PROGRESS + early)) == PROGRESS + early
        await until(lambda: bool(plain.authority.outcomes))
        waiting = asyncio.ensure_future(got.content.readany())
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        plain.authority.durable.set()
        assert await waiting + await got.content.read() == FINAL
    assert plain.authority.outcomes[0].ending is Ending.SUCCEEDED


async def test_a_whole_answer_waits_for_the_outcome_too(plain: Any, recorder: Any, until: Any):
    plain.authority.durable.clear()
    asked = asyncio.ensure_future(plain.post(CALL))
    await until(lambda: bool(plain.authority.outcomes))
    done, _ = await asyncio.wait({asked}, timeout=0.05)
    assert not done
    plain.authority.durable.set()
    assert (await asked).body == b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'


async def test_an_outcome_that_could_not_be_written_is_not_told_as_a_success(
    plain: Any, recorder: Any
):
    plain.authority.lose_outcome = True
    for script in (None, streamed(PROGRESS, FINAL)):
        recorder.script = script
        got = await plain.post(CALL)
        assert got.body.count(b"isError") == 1
        assert b"could not be made durable" in got.body
        assert b'"content":[]' not in got.body


async def test_how_a_call_ended_is_read_from_the_answer(plain: Any, recorder: Any):
    told = {
        '{"result":{"content":[],"isError":true}}': (Ending.FAILED, "tool_error"),
        '{"error":{"code":-32602,"message":"x"}}': (Ending.FAILED, "rpc_error -32602"),
        '{"result":{"resultType":"input_required"}}': (Ending.SUCCEEDED, "input_required"),
        '{"result":{"resultType":"task"}}': (Ending.SUCCEEDED, "task"),
        '{"result":{"isError":"no"}}': (Ending.FAILED, "unreadable answer"),
        "not json": (Ending.FAILED, "unreadable answer"),
        "": (Ending.FAILED, "unreadable answer"),
    }
    for body, expected in told.items():
        recorder.script = whole(200, body)
        got = await plain.post(CALL)
        assert got.text == body
        outcome = plain.authority.outcomes[-1]
        assert (outcome.ending, outcome.detail) == expected
        assert outcome.result == body.encode()


def whole(status: int, body: str, **headers: str) -> Any:
    head = [(b"content-type", b"application/json")]
    head += [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]

    async def script(request: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body.encode()})

    return script


async def test_statuses_and_headers_come_through_but_cookies_do_not(plain: Any, recorder: Any):
    for status in (200, 400, 404, 429, 500, 503):
        recorder.script = whole(status, "{}", set_cookie="a=b", mcp_x="y", retry_after="3")
        got = await plain.post('{"jsonrpc":"2.0","id":1,"method":"prompts/list"}')
        assert got.status == status
        assert got.headers["mcp-x"] == "y"
        assert got.headers["retry-after"] == "3"
        assert "set-cookie" not in got.headers
    recorder.script = whole(202, "")
    got = await plain.post('{"jsonrpc":"2.0","method":"notifications/initialized"}')
    assert (got.status, got.body) == (202, b"")


async def test_an_upstream_that_redirects_or_wants_a_login_is_a_failure_of_ours(
    plain: Any, recorder: Any
):
    for status in (302, 307, 401):
        recorder.script = whole(status, "{}", location="http://evil.example", www_authenticate="x")
        got = await plain.post(CALL)
        assert got.status == 200
        assert json.loads(got.body)["result"]["isError"] is True
        assert "www-authenticate" not in got.headers
        assert len(recorder.heard) == 1
        recorder.heard.clear()


async def test_a_dead_upstream_is_a_clear_error_in_each_shape(stand: Any):
    async with stand(UpstreamOptions(name="up", url="http://127.0.0.1:9/mcp")) as made:
        result = json.loads((await made.post(CALL)).body)["result"]
        assert result["isError"]
        assert "cannot be reached" in result["content"][0]["text"]
        assert result["_meta"]["dev.remit/decision"]["code"] == "upstream"
        read = CALL.replace("tools/call", "resources/read").replace('"name"', '"uri"')
        assert json.loads((await made.post(read)).body)["error"]["code"] == 502
        listing = '{"jsonrpc":"2.0","id":"x","method":"tools/list"}'
        error = json.loads((await made.post(listing)).body)
        assert (error["id"], error["error"]["code"]) == ("x", 502)
        assert "cannot be reached" in made.gateway.health()["up"]


async def test_a_slow_upstream_is_given_up_and_its_call_is_unknown(
    stand: Any, serve: Any, recorder: Any
):
    never = asyncio.Event()
    async with serve(recorder) as url:
        slow = UpstreamOptions(name="up", url=url, answer_seconds=0.2, call_seconds=0.6)
        async with stand(slow) as made:
            for script in (
                streamed(then=never),
                streamed(PROGRESS, then=never),
                _forever(),
            ):
                recorder.script = script
                got = await made.post(CALL)
                assert "not known" in got.text
                assert made.authority.outcomes[-1].ending is Ending.UNKNOWN
        never.set()


def _forever() -> Any:
    async def script(request: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        while True:
            await send({"type": "http.response.body", "body": PROGRESS, "more_body": True})
            await asyncio.sleep(0.02)

    return script


async def test_an_upstream_that_breaks_off_is_a_clear_error(plain: Any, recorder: Any):
    for pieces in ((), (PROGRESS,), (PROGRESS, b'data: {"jsonrpc":"2.0","id":1,"res')):
        recorder.script = streamed(*pieces)
        got = await plain.post(CALL)
        assert got.body.count(b"isError") == 1
        assert b"not known" in got.body
        assert plain.authority.outcomes[-1].ending is Ending.UNKNOWN


async def test_a_client_that_goes_away_cancels_the_upstream(plain: Any, recorder: Any, until: Any):
    gone = asyncio.Event()

    async def script(request: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        await send({"type": "http.response.body", "body": PROGRESS, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    recorder.script = script
    for message in (CALL, '{"jsonrpc":"2.0","id":1,"method":"completion/complete"}'):
        gone.clear()
        async with aiohttp.ClientSession() as http:
            got = await http.post(f"{plain.url}/mcp/up", data=message, headers=HEADERS)
            await got.content.readexactly(len(PROGRESS))
            got.close()
        async with asyncio.timeout(5):
            await gone.wait()
    await until(lambda: plain.authority.cut_short == 1)


async def test_a_resumed_stream_holds_the_response_back_as_well(
    plain: Any, recorder: Any, until: Any
):
    primed = b"id: 1\ndata: \n\n"
    ended = asyncio.Event()

    async def script(request: Any, receive: Any, send: Any) -> None:
        if b"initialize" in request["body"]:
            head = [(b"content-type", b"application/json"), (b"mcp-session-id", b"s1")]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        pieces = [primed] if request["method"] == "POST" else [PROGRESS, FINAL]
        await streamed(*pieces)(request, receive, send)
        ended.set()

    recorder.script = script
    await plain.post('{"jsonrpc":"2.0","id":0,"method":"initialize"}')
    for lost in (False, True):
        plain.authority.lose_outcome = lost
        plain.authority.durable.clear()
        before = len(plain.authority.outcomes)
        got = await plain.post(CALL, mcp_session_id="s1")
        assert got.body == primed
        headers = HEADERS | {"mcp-session-id": "s1", "last-event-id": "1"}
        async with plain.http.get(f"{plain.url}/mcp/up", headers=headers) as stream:
            assert await stream.content.readexactly(len(PROGRESS)) == PROGRESS
            await until(lambda n=before: len(plain.authority.outcomes) == n + 1)
            waiting = asyncio.ensure_future(stream.content.readany())
            done, _ = await asyncio.wait({waiting}, timeout=0.05)
            assert not done
            plain.authority.durable.set()
            rest = await waiting + await stream.content.read()
        assert (rest == FINAL) is not lost
        assert (b"could not be made durable" in rest) is lost


async def test_a_denial_says_what_which_policy_and_what_would_help(plain: Any, recorder: Any):
    plain.authority.denied.add("up/echo")
    result = json.loads((await plain.post(CALL)).body)["result"]
    words = result["content"][0]["text"]
    assert result["isError"] is True
    for said in ("up/echo", "the mandate does not list this tool".capitalize(), "mandate.tool"):
        assert said in words
    assert "open a task whose template has it" in words
    assert result["_meta"]["dev.remit/decision"] == {
        "effect": "deny",
        "code": "denied",
        "decision": "dec_1",
        "policies": ["mandate.tool"],
    }
    for method, key in (("resources/read", "uri"), ("prompts/get", "name")):
        plain.authority.denied.add("up/x:y")
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {key: "x:y"}}
        error = json.loads((await plain.post(json.dumps(body))).body)["error"]
        assert error["code"] == 403
        assert error["data"]["dev.remit/decision"]["policies"] == ["mandate.tool"]
    assert recorder.heard == []


async def test_a_credential_is_put_in_by_the_gateway_and_the_client_cannot(
    plain: Any, recorder: Any
):
    plain.authority.credential = Credential(values={"token": "minted"}, secrets=("minted",))
    await plain.post(CALL)
    sent = [v for k, v in recorder.heard[0]["headers"] if k == "authorization"]
    assert sent == ["Bearer minted"]


async def test_the_older_eras_stream_and_goodbye_are_405_in_the_newer(plain: Any, recorder: Any):
    for method in ("GET", "DELETE", "PUT"):
        headers = HEADERS | {"mcp-protocol-version": "2026-07-28"}
        async with plain.http.request(method, f"{plain.url}/mcp/up", headers=headers) as got:
            assert (got.status, got.headers["allow"]) == (405, "POST")
    assert recorder.heard == []
