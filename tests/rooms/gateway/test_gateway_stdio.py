"""Processes behind the gateway, in both protocol eras, with the SDK's own client in front."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from remit.gateway import stdio_upstream
from remit.gateway.options import UpstreamOptions
from remit.gateway.scan import scan
from remit.model.errors import UpstreamError
from remit.model.outcome import Ending

SDK = Path(__file__).with_name("stdio_server.py")
BARE = Path(__file__).with_name("bare_server.py")
ERAS = ["legacy", "2026-07-28"]
INITIALIZE = (
    '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
    '"capabilities":{},"clientInfo":{"name":"t","version":"1"}}}'
)


def options(**changes: Any) -> UpstreamOptions:
    given = {
        "name": "up",
        "command": (sys.executable, "-S", "-E", str(BARE)),
        "env": {"ONLY": "this"},
    }
    return UpstreamOptions(**(given | changes))


@contextlib.asynccontextmanager
async def connected(made: Any, mode: str, token: str = "token-a", task: str = "a:task_1"):
    headers = {"authorization": f"Bearer {token}", "remit-task": task}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"{made.url}/mcp/up", http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=30) as client:
            yield client


@pytest.mark.parametrize("mode", ERAS)
async def test_a_process_serves_a_client_of_either_era(stand: Any, mode: Any, monkeypatch: Any):
    monkeypatch.setenv("SECRET_OF_REMIT", "x")
    sdk = options(command=(sys.executable, str(SDK)))
    async with stand(sdk) as made, connected(made, mode) as client:
        listed = await client.list_tools()
        assert "echo" in {tool.name for tool in listed.tools}
        said = await client.call_tool("echo", {"text": "line\nbreak é"})
        assert said.content[0].text == "line\nbreak é"
        seen = (await client.call_tool("about", {})).structured_content
        assert seen["env"]["ONLY"] == "this"
        assert "SECRET_OF_REMIT" not in seen["env"]
        assert "token-a" not in str(seen)
        steps = []
        done = await client.call_tool(
            "steps", {"count": 3}, progress_callback=lambda *a: _note(steps, a)
        )
        assert done.content[0].text == "done"
        assert [step[0] for step in steps] == [1, 2, 3]
        failed = await client.call_tool("fail", {})
        assert failed.is_error
        endings = [(o.ending, o.detail) for o in made.authority.outcomes]
        assert endings[-1] == (Ending.FAILED, "tool_error")
        assert all(e == (Ending.SUCCEEDED, None) for e in endings[:-1])


async def _note(steps: list[Any], what: Any) -> None:
    steps.append(what)


async def test_each_session_has_a_process_and_each_workload_one_for_stateless_requests(stand: Any):
    async with stand(options()) as made:
        pids = []
        for mode in ERAS:
            async with connected(made, mode) as one, connected(made, mode) as two:
                seen = [(await c.call_tool("about", {})).structured_content for c in (one, two)]
                pids.append([each["pid"] for each in seen])
        assert pids[0][0] != pids[0][1]
        assert pids[1][0] == pids[1][1]
        async with connected(made, ERAS[1], "token-b", "b:task_2") as other:
            pid = (await other.call_tool("about", {})).structured_content["pid"]
        assert pid not in pids[1]


async def test_two_clients_that_choose_the_same_ids_get_their_own_answers(stand: Any):
    async with (
        stand(options()) as made,
        connected(made, ERAS[1]) as one,
        connected(made, ERAS[1]) as two,
    ):
        first, second = [], []
        arguments = {"count": 5, "pause": 0.01}
        await asyncio.gather(
            one.call_tool("steps", arguments, progress_callback=lambda *a: _note(first, a)),
            two.call_tool("steps", arguments, progress_callback=lambda *a: _note(second, a)),
        )
        assert len(first) == len(second) == 5
        texts = [f"{n}" for n in range(20)]
        said = await asyncio.gather(
            *(c.call_tool("echo", {"text": t}) for t in texts for c in (one, two))
        )
        assert [s.content[0].text for s in said] == [t for t in texts for _ in (one, two)]


@pytest.mark.parametrize("mode", ERAS)
async def test_a_process_that_dies_fails_its_call_and_is_started_again(stand: Any, mode: Any):
    async with stand(options()) as made:
        with contextlib.suppress(MCPError):
            async with connected(made, mode) as client:
                assert (await client.call_tool("echo", {"text": "a"})).content[0].text == "a"
                died = await client.call_tool("die", {})
                assert died.is_error
                assert "not known" in died.content[0].text
                assert made.authority.outcomes[-1].ending is Ending.UNKNOWN
                assert made.gateway.health()["up"] is None or "ended" in made.gateway.health()["up"]
        async with connected(made, mode) as client:
            assert (await client.call_tool("echo", {"text": "b"})).content[0].text == "b"
            assert made.gateway.health()["up"] is None


async def test_a_command_that_cannot_start_is_a_clear_error_and_is_not_started_in_a_loop(
    stand: Any,
):
    async with stand(options(command=("/no/such/command",))) as made:
        for expected in ("cannot be started", "keeps ending"):
            got = await made.post(INITIALIZE)
            assert expected in json.loads(got.body)["error"]["message"]
        assert "cannot be started" in made.gateway.health()["up"]


async def test_a_command_that_speaks_no_mcp_is_a_clear_error(stand: Any):
    async with stand(options(command=("/bin/echo", "hello"))) as made:
        got = await made.post(INITIALIZE)
        assert "ended" in json.loads(got.body)["error"]["message"]


async def test_a_command_that_says_nothing_is_given_up_in_time(stand: Any):
    async with stand(options(command=("/bin/cat",), start_seconds=0.2, stop_seconds=0.2)) as made:
        silent = options(command=("/bin/sleep", "60"), start_seconds=0.2, stop_seconds=0.1)
        async with stand(silent) as other:
            got = await other.post(INITIALIZE)
        assert "did not start within" in json.loads(got.body)["error"]["message"]
        # cat gives our own words back, which is a request of its own and no answer.
        got = await made.post(INITIALIZE)
        assert "did not start within" in json.loads(got.body)["error"]["message"]


async def test_a_line_that_is_too_long_ends_the_process_and_fails_the_call(stand: Any):
    few = options(max_answer_bytes=100_000)
    async with stand(few) as made, connected(made, ERAS[1]) as client:
        await client.call_tool("echo", {"text": "a"})
        got = await client.call_tool("spam", {"size": 300_000})
        assert got.is_error
        assert "ended" in got.content[0].text
        assert (await client.call_tool("echo", {"text": "b"})).content[0].text == "b"


async def test_a_question_of_the_process_reaches_the_client_and_its_answer_the_process(stand: Any):
    async with stand(options()) as made:
        session = (await made.post(INITIALIZE)).headers["mcp-session-id"]
        headers = {
            "authorization": "Bearer token-a",
            "remit-task": "a:task_1",
            "content-type": "application/json",
            "mcp-session-id": session,
        }
        ask = '{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"ask"}}'
        async with made.http.post(f"{made.url}/mcp/up", data=ask, headers=headers) as answer:
            assert answer.content_type == "text/event-stream"
            first = await answer.content.readuntil(b"\r\n\r\n")
            assert b"elicitation/create" in first
            reply = '{"jsonrpc":"2.0","id":"q1","result":{"action":"accept"}}'
            assert (await made.post(reply, mcp_session_id=session)).status == 202
            assert b"accept" in await answer.content.readuntil(b"\r\n\r\n")


async def test_a_client_that_goes_away_cancels_the_call_in_the_process(
    stand: Any, tmp_path: Path, until: Any
):
    out = tmp_path / "out"
    async with stand(options()) as made, connected(made, ERAS[1]) as client:
        await client.call_tool("echo", {"text": "warm"})
        pipe = next(iter(made.gateway.upstreams["up"]._shared.values()))
        call = asyncio.create_task(client.call_tool("wait_for", {"path": str(out)}))
        await until(lambda: not pipe.idle)
        call.cancel()
        await until(lambda: out.exists() and out.read_text() == "cancelled")
        assert made.authority.cut_short == 1


async def test_closing_the_gateway_leaves_no_process_behind(stand: Any):
    async with stand(options(stop_seconds=1)) as made:
        async with connected(made, ERAS[1]) as client:
            pid = (await client.call_tool("about", {})).structured_content["pid"]
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_session_of_another_workload_or_task_is_not_found(stand: Any):
    call = '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"}}}'
    async with stand(options()) as made:
        opened = await made.post(INITIALIZE)
        session = opened.headers["mcp-session-id"]
        await made.post(
            '{"jsonrpc":"2.0","method":"notifications/initialized"}', mcp_session_id=session
        )
        assert (await made.post(call, mcp_session_id=session)).status == 200
        stolen = {
            "another workload": {"authorization": "Bearer token-b", "remit-task": "b:task_1"},
            "another task": {"remit-task": "a:task_2"},
            "no task": {"remit-task": ""},
        }
        before = len(made.authority.calls)
        for headers in stolen.values():
            for method in ("POST", "GET", "DELETE"):
                sent = {"authorization": "Bearer token-a", "remit-task": "a:task_1"} | headers
                sent |= {"mcp-session-id": session, "content-type": "application/json"}
                sent = {k: v for k, v in sent.items() if v}
                data = call if method == "POST" else None
                async with made.http.request(
                    method, f"{made.url}/mcp/up", data=data, headers=sent
                ) as got:
                    assert got.status == 404
        assert len(made.authority.calls) == before
        assert (await made.post(call, mcp_session_id="ffff")).status == 404
        assert (await made.post(call, mcp_session_id=session)).status == 200


async def test_a_stateless_initialize_does_not_reach_the_process(stand: Any):
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"_meta": meta}}
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "initialize"}
    async with stand(options()) as made:
        got = await made.post(json.dumps(body), **headers)
        assert (got.status, json.loads(got.body)["error"]["code"]) == (404, -32601)
        assert made.gateway.upstreams["up"]._shared == {}


DYING = {
    "it says what is no message": ("/bin/echo", "hello"),
    "it says nothing": ("/bin/true",),
    "it fails": ("/bin/false",),
    "a child of it lives on": ("/bin/sh", "-c", "sleep 60 & exit 0"),
}


@pytest.mark.parametrize("how", DYING)
@pytest.mark.parametrize("by", ["a scan", "a client"])
async def test_a_command_that_dies_at_once_is_never_ready(stand: Any, how: str, by: str):
    async with stand(options(command=DYING[how], restart_seconds=0.01)) as made:
        assert "not answered" in made.gateway.health()["up"]
        for _ in range(5):
            if by == "a scan":
                with pytest.raises(UpstreamError):
                    await scan(made.gateway, "up")
            else:
                assert "error" in json.loads((await made.post(INITIALIZE)).body)
            assert "ended" in made.gateway.health()["up"]


async def test_ready_is_a_command_that_answered_since_its_last_start(stand: Any, until: Any):
    async with stand(options()) as made:
        await scan(made.gateway, "up")
        assert made.gateway.health()["up"] is None
        opened = await made.post(INITIALIZE)
        pipe = made.gateway.upstreams["up"]._sessions[opened.headers["mcp-session-id"]].pipe
        os.kill(pipe.pid, signal.SIGKILL)
        await until(pipe.ended.is_set)
        assert "ended" in made.gateway.health()["up"]
        await scan(made.gateway, "up")
        assert made.gateway.health()["up"] is None


async def test_who_breaks_its_own_processes_keeps_nobody_else_out(
    stand: Any, monkeypatch: pytest.MonkeyPatch
):
    # Longer than this test takes on any machine.
    monkeypatch.setattr(stdio_upstream, "_FIRST_PAUSE_SECONDS", 3600.0)
    serve = f"import runpy; runpy.run_path({str(BARE)!r})"
    source = (
        "import sys\nline = sys.stdin.readline()\nif 'poison' in line: sys.exit(1)\n"
        "import io\nsys.stdin = io.StringIO(line)\n" + serve
    )
    poison = INITIALIZE.replace('"name":"t"', '"name":"poison"')
    other = {"authorization": "Bearer token-b", "remit_task": "b:task_2"}
    command = (sys.executable, "-c", source)
    async with stand(options(command=command, restart_seconds=3600.0)) as made:
        for expected in ("ended", "keeps ending"):
            assert expected in (await made.post(poison)).text
        assert b'"result"' in (await made.post(INITIALIZE, **other)).body
        assert "keeps ending" in (await made.post(INITIALIZE)).text
