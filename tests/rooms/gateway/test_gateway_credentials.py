"""Where a minted credential goes: the environment of a process of its own, `_meta`, never further."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from remit.gateway.injection import Injection
from remit.gateway.options import UpstreamOptions
from remit.gateway.splice import with_meta
from remit.gateway.strict_json import read
from remit.model.errors import ConfigError
from remit.model.lease import Credential
from remit.model.outcome import Ending

BARE = Path(__file__).with_name("bare_server.py")
ERAS = ["legacy", "2026-07-28"]
COMMAND = (sys.executable, "-S", "-E", str(BARE))
IN_ENVIRONMENT = Injection(environment={"PGPASSWORD": "{password}", "DSN": "x://a:{password}@h"})


def minted(number: int) -> Credential:
    password = f"minted-password-{number}"
    return Credential(values={"password": password}, secrets=(password,), lease=f"lease_{number}")


def options(**changes: Any) -> UpstreamOptions:
    usual = {"name": "up", "command": COMMAND, "env": {"PGPASSWORD": "none"}}
    return UpstreamOptions(**(usual | {"inject": IN_ENVIRONMENT} | changes))


@contextlib.asynccontextmanager
async def connected(made: Any, mode: str, who: str = "a", **callbacks: Any):
    headers = {"authorization": f"Bearer token-{who}", "remit-task": f"{who}:task_1"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"{made.url}/mcp/up", http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=30, **callbacks) as client:
            yield client


async def about(client: Any) -> dict[str, Any]:
    told = (await client.call_tool("about", {})).structured_content
    assert isinstance(told, dict), told
    return told


INITIALIZE = (
    '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
    '"capabilities":{"elicitation":{}},"clientInfo":{"name":"t","version":"1"}}}'
)


async def modern_call(made: Any, name: str, arguments: dict[str, Any]) -> Any:
    """Make a stateless call without a client of the SDK's."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": name, "arguments": arguments, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return await made.post(
        json.dumps(message),
        mcp_protocol_version="2026-07-28",
        mcp_method="tools/call",
        mcp_name=name,
    )


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has buried yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


@pytest.mark.parametrize("mode", ERAS)
async def test_a_call_runs_in_a_process_of_its_lease_which_ends_before_the_lease(
    stand: Any, mode: str
):
    async with stand(options()) as made, connected(made, mode) as client:
        made.authority.credential = minted(1)
        assert (await client.list_tools()).tools[0].name == "echo"
        first, again = await about(client), await about(client)
        assert first["pid"] == again["pid"]
        assert first["env"]["PGPASSWORD"] == "minted-password-1"
        assert first["env"]["DSN"] == "x://a:minted-password-1@h"
        assert alive(first["pid"])
        await made.authority.leases.end("lease_1")
        assert not alive(first["pid"])
        made.authority.credential = minted(2)
        renewed = await about(client)
        assert renewed["pid"] != first["pid"]
        assert renewed["env"]["PGPASSWORD"] == "minted-password-2"
    assert not alive(renewed["pid"])


@pytest.mark.parametrize("mode", ERAS)
async def test_what_no_decision_was_made_about_never_sees_a_credential(stand: Any, mode: str):
    async with stand(options()) as made, connected(made, mode) as client:
        made.authority.credential = minted(1)
        await client.list_tools()
        upstream = made.gateway.upstreams["up"]
        bare = [*upstream._shared.values(), *(s.pipe for s in upstream._sessions.values())]
        (pid,) = {pipe.pid for pipe in bare}
        await about(client)
        environment = environment_of(pid)
        assert b"PGPASSWORD=none" in environment
        assert b"minted-password" not in environment


@pytest.mark.parametrize("mode", ERAS)
async def test_no_two_workloads_and_no_two_leases_share_a_process(stand: Any, mode: str):
    async with (
        stand(options()) as made,
        connected(made, mode) as one,
        connected(made, mode, "b") as other,
    ):
        pids = []
        # The same lease, wrongly handed to two workloads, is no way into each other's process.
        for number, client in ((1, one), (1, other), (2, one)):
            made.authority.credential = minted(number)
            pids.append((await about(client))["pid"])
        assert len(set(pids)) == 3


@pytest.mark.parametrize("mode", ERAS)
async def test_a_lease_that_ends_cuts_the_call_that_runs_and_its_whole_group(
    stand: Any, mode: str, tmp_path: Path, until: Any
):
    async with stand(options(stop_seconds=0.5)) as made, connected(made, mode) as client:
        made.authority.credential = minted(1)
        pid = (await about(client))["pid"]
        call = asyncio.create_task(client.call_tool("wait_for", {"path": str(tmp_path / "out")}))
        upstream = made.gateway.upstreams["up"]
        await until(lambda: upstream._places._places[0].pipe.idle is False)
        await made.authority.leases.end("lease_1")
        assert not alive(pid)
        assert len(upstream._places) == 0
        assert (await call).is_error
        assert made.authority.outcomes[-1].ending is Ending.UNKNOWN
        assert "taken back" in made.authority.outcomes[-1].detail


async def test_a_process_that_reads_nothing_ends_with_its_lease(stand: Any, until: Any):
    deaf = options(command=("/bin/sleep", "60"), stop_seconds=0.2)
    async with stand(deaf) as made:
        made.authority.credential = minted(1)
        # More than a pipe holds: the gateway is in the midst of writing it.
        call = asyncio.create_task(modern_call(made, "echo", {"text": "x" * 1_000_000}))
        places = made.gateway.upstreams["up"]._places
        await until(lambda: len(places) == 1 and places._places[0].pipe is not None)
        await until(lambda: not places._places[0].pipe.idle)
        await made.authority.leases.end("lease_1")
        assert len(places) == 0
        await call
        assert made.authority.outcomes[-1].ending is Ending.UNKNOWN


async def test_the_log_level_of_a_session_holds_in_its_process_of_a_lease(
    stand: Any, tmp_path: Path, until: Any
):
    heard = tmp_path / "heard"
    source = (
        "import os, sys\n"
        f"real, out = sys.stdin, open({str(heard)!r} + os.environ['PGPASSWORD'], 'a', 1)\n"
        "class Tee:\n"
        "    def __iter__(self):\n"
        "        for line in real:\n"
        "            out.write(line)\n"
        "            yield line\n"
        "sys.stdin = Tee()\n"
        "import runpy\n"
        f"runpy.run_path({str(BARE)!r})"
    )
    async with stand(options(command=(sys.executable, "-c", source))) as made:
        made.authority.credential = minted(1)
        session = (await made.post(INITIALIZE)).headers["mcp-session-id"]
        call = (
            '{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"echo",'
            '"arguments":{"text":"x"}}}'
        )
        level = '{"jsonrpc":"2.0","id":%d,"method":"logging/setLevel","params":{"level":"%s"}}'
        await made.post(level % (2, "error"), mcp_session_id=session)
        await made.post(call, mcp_session_id=session)
        await made.post(level % (3, "debug"), mcp_session_id=session)
        wanted = heard.with_name("heardminted-password-1")
        await until(lambda: "debug" in wanted.read_text())
        methods = [json.loads(line) for line in wanted.read_text().splitlines()]
        assert [each["method"] for each in methods] == [
            "initialize",
            "notifications/initialized",
            "logging/setLevel",
            "tools/call",
            "logging/setLevel",
        ]
        # Opened as the client opened its session.
        assert methods[0]["params"] == json.loads(INITIALIZE)["params"]


async def test_what_a_process_started_ends_with_it(stand: Any, tmp_path: Path, until: Any):
    out = tmp_path / "child"
    script = f"sleep 600 & echo $! > {out}.$PGPASSWORD; exec {' '.join(COMMAND)}"
    async with stand(options(command=("/bin/sh", "-c", script))) as made:
        async with connected(made, ERAS[1]) as client:
            made.authority.credential = minted(1)
            await about(client)
        child = int(out.with_name("child.minted-password-1").read_text())
        assert alive(child)
        assert b"minted-password-1" in environment_of(child)
        await made.authority.leases.end("lease_1")
        await until(lambda: not alive(child))


async def test_a_lease_that_ends_while_its_process_starts_leaves_none(stand: Any, until: Any):
    silent = options(command=("/bin/sleep", "60"), stop_seconds=0.2)
    async with stand(silent) as made:
        upstream = made.gateway.upstreams["up"]
        made.authority.credential = minted(1)
        call = asyncio.create_task(modern_call(made, "echo", {"text": "x"}))
        await until(lambda: len(upstream._places) == 1)
        place = upstream._places._places[0]
        await made.authority.leases.end("lease_1")
        assert len(upstream._places) == 0
        assert place.pipe is None or not place.pipe.alive
        assert (await call).status == 200
        assert made.authority.outcomes[-1].ending is Ending.UNKNOWN


@pytest.mark.parametrize("mode", ERAS)
async def test_the_pool_is_bounded_and_what_is_idle_gives_way(stand: Any, mode: str):
    few = options(max_processes_per_agent=2 if mode == "legacy" else 1)
    async with stand(few) as made, connected(made, mode) as client:
        made.authority.credential = minted(1)
        first = await about(client)
        made.authority.credential = minted(2)
        if mode == "legacy":
            # A session's process has a state that its client counts on: it gives way to nobody.
            refused = await client.call_tool("about", {})
            assert refused.is_error
            assert "processes for this agent already" in refused.content[0].text
            assert alive(first["pid"])
        else:
            assert (await about(client))["env"]["PGPASSWORD"] == "minted-password-2"
            await made.authority.leases.end("lease_1")
            assert not alive(first["pid"])


@pytest.mark.parametrize("mode", ERAS)
async def test_a_process_of_a_lease_that_is_idle_for_too_long_ends(
    stand: Any, mode: str, until: Any
):
    brief = options(process_idle_seconds=0.001)
    async with stand(brief) as made, connected(made, mode) as client:
        made.authority.credential = minted(1)
        first = await about(client)
        places = made.gateway.upstreams["up"]._places
        await client.list_tools()
        await until(lambda: len(places) == 0)
        assert not alive(first["pid"])
        # Its lease lives on, and its next call has a process again.
        assert (await about(client))["env"]["PGPASSWORD"] == "minted-password-1"


async def test_a_call_in_flight_gives_way_to_nobody(stand: Any, tmp_path: Path, until: Any):
    one = options(max_processes_per_agent=1)
    async with stand(one) as made, connected(made, ERAS[1]) as client:
        made.authority.credential = minted(1)
        waiting = asyncio.create_task(client.call_tool("wait_for", {"path": str(tmp_path / "out")}))
        places = made.gateway.upstreams["up"]._places
        await until(lambda: len(places) == 1 and places._places[0].pipe is not None)
        await until(lambda: not places._places[0].pipe.idle)
        made.authority.credential = minted(2)
        refused = await client.call_tool("about", {})
        assert "processes for this agent already" in refused.content[0].text
        waiting.cancel()
        # The process hears that nobody waits any more, as any other does.
        await until((tmp_path / "out").exists)


@pytest.mark.parametrize("mode", ERAS)
async def test_progress_and_cancelling_work_in_a_process_of_a_lease(
    stand: Any, mode: str, tmp_path: Path, until: Any
):
    async with stand(options()) as made, connected(made, mode) as client:
        made.authority.credential = minted(1)
        steps: list[float] = []

        async def note(step: float, *_: Any) -> None:
            steps.append(step)

        done = await client.call_tool("steps", {"count": 3}, progress_callback=note)
        assert done.content[0].text == "done"
        assert steps == [1, 2, 3]


async def test_a_question_of_a_process_of_a_lease_reaches_the_client_of_the_call(stand: Any):
    async with stand(options()) as made:
        made.authority.credential = minted(1)
        session = (await made.post(INITIALIZE)).headers["mcp-session-id"]
        headers = {
            "authorization": "Bearer token-a",
            "remit-task": "a:task_1",
            "content-type": "application/json",
            "mcp-session-id": session,
        }
        ask = '{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"ask"}}'
        async with made.http.post(f"{made.url}/mcp/up", data=ask, headers=headers) as answer:
            question = await answer.content.readuntil(b"\r\n\r\n")
            data = json.loads(question.split(b"data: ", 1)[1])
            assert data["method"] == "elicitation/create"
            # Not the process's own name for it: the session's other process may use the same.
            assert data["id"] != "q1"
            reply = {"jsonrpc": "2.0", "id": data["id"], "result": {"action": "accept"}}
            told = await made.post(json.dumps(reply), mcp_session_id=session)
            assert told.status == 202
            assert b"accept" in await answer.content.readuntil(b"\r\n\r\n")


async def test_a_cancel_of_the_client_reaches_the_process_of_the_call(
    stand: Any, tmp_path: Path, until: Any
):
    out = tmp_path / "out"
    async with stand(options()) as made:
        made.authority.credential = minted(1)
        session = (await made.post(INITIALIZE)).headers["mcp-session-id"]
        call = {
            "jsonrpc": "2.0",
            "id": 7,
            "method": "tools/call",
            "params": {"name": "wait_for", "arguments": {"path": str(out)}},
        }
        running = asyncio.create_task(made.post(json.dumps(call), mcp_session_id=session))
        places = made.gateway.upstreams["up"]._places
        await until(lambda: [p for p in places.in_session(session) if p.waits_for(7)] != [])
        cancel = '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}'
        assert (await made.post(cancel, mcp_session_id=session)).status == 202
        await until(lambda: out.exists() and out.read_text() == "cancelled")
        await made.authority.leases.end("lease_1")
        await running


async def test_a_process_that_does_not_begin_with_its_credential_is_a_call_that_did_not_act(
    stand: Any,
):
    source = (
        "import os, runpy, sys\n"
        "if 'minted' in os.environ['PGPASSWORD']: sys.exit(1)\n"
        f"runpy.run_path({str(BARE)!r})"
    )
    command = (sys.executable, "-c", source)
    async with stand(options(command=command)) as made, connected(made, "legacy") as client:
        made.authority.credential = minted(1)
        refused = await client.call_tool("about", {})
        assert refused.is_error
        assert "minted" not in refused.content[0].text
        assert made.authority.outcomes == []


async def test_without_a_credential_no_process_is_started_with_the_operators_own_value(stand: Any):
    async with stand(options()) as made, connected(made, ERAS[1]) as client:
        refused = await client.call_tool("about", {})
        assert "no credential" in refused.content[0].text
        made.authority.credential = Credential(values={"password": "p" * 20})
        assert "no credential" in (await client.call_tool("about", {})).content[0].text


@pytest.mark.parametrize("value", ["two\0parts", "half \ud800"])
async def test_a_value_that_fits_nowhere_is_refused_and_not_shown(stand: Any, value: str):
    async with stand(options()) as made, connected(made, ERAS[1]) as client:
        made.authority.credential = Credential(values={"password": value}, lease="lease_1")
        refused = await client.call_tool("about", {})
        assert "does not fit into variable `PGPASSWORD`" in refused.content[0].text
        assert made.authority.outcomes == []


# _meta

NAME = "com.example/token"
IN_META = Injection(meta={NAME: "Bearer {token}"})
TOKEN = Credential(values={"token": 'a"b\\c'}, lease="lease_1")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}',
            '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{ADDED},"name":"x"}}',
        ),
        (
            '{ "params" :\t{ "name" : "x" , "_meta" : { } } , "id":1 }',
            '{ "params" :\t{ "name" : "x" , "_meta" : {ADDED } } , "id":1 }',
        ),
        (
            '{"params":{"_meta":{"a":[{"_meta":{}}],"é":1e3},"name":"{\\"_meta\\":{"}}',
            '{"params":{"_meta":{ADDED,"a":[{"_meta":{}}],"é":1e3},"name":"{\\"_meta\\":{"}}',
        ),
        (
            '{"x":{"params":{"_meta":{}}},"par\\u0061ms":{"\\u005fmeta":{"b":2}}}',
            '{"x":{"params":{"_meta":{}}},"par\\u0061ms":{"\\u005fmeta":{ADDED,"b":2}}}',
        ),
        ('{"id":1}', '{"params":{"_meta":{ADDED}},"id":1}'),
        ('{"params":{}}', '{"params":{"_meta":{ADDED}}}'),
    ],
)
def test_a_member_is_put_into_meta_and_no_other_byte_is_touched(body: str, expected: str):
    put = with_meta(body.encode(), {NAME: "v"})
    assert put.decode() == expected.replace("ADDED", f'"{NAME}":"v"')


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    meta=st.none() | st.dictionaries(st.text(), _json, max_size=3),
    rest=st.dictionaries(st.text().filter(lambda k: k != "_meta"), _json, max_size=3),
    indent=st.sampled_from([None, 0, 2]),
    escape=st.booleans(),
    value=st.text(),
)
def test_what_is_read_afterwards_is_what_was_read_before_and_the_member(
    meta: Any, rest: Any, indent: Any, escape: Any, value: str
):
    params = rest if meta is None else {**rest, "_meta": meta}
    whole = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    body = json.dumps(whole, indent=indent, ensure_ascii=escape).encode()
    put = with_meta(body, {NAME: value})
    expected = {**whole, "params": {**rest, "_meta": {**(meta or {}), NAME: value}}}
    assert json.loads(put) == expected
    # Taking the insertion out again gives the bytes that came.
    at = next((i for i, (a, b) in enumerate(zip(body, put, strict=False)) if a != b), len(body))
    longer = len(put) - len(body)
    starts = range(max(0, at - longer), at + 1)
    assert any(put[:i] + put[i + longer :] == body for i in starts)


async def test_a_governed_request_carries_it_over_http_and_no_other_does(
    stand: Any, serve: Any, recorder: Any
):
    async with (
        serve(recorder) as url,
        stand(UpstreamOptions(name="up", url=f"{url}/mcp", inject=IN_META)) as made,
    ):
        made.authority.credential = TOKEN
        call = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"} }'
        await made.post(call, content_digest="sha-256=:AAAA:")
        await made.post('{"jsonrpc":"2.0","id":2,"method":"ping"}')
        sent, ping = recorder.heard
        added = json.dumps({NAME: 'Bearer a"b\\c'}, separators=(",", ":")).encode()
        assert sent["body"] == call.replace(b'{"name"', b'{"_meta":' + added + b',"name"')
        assert "content-digest" not in dict(sent["headers"])
        assert ping["body"] == b'{"jsonrpc":"2.0","id":2,"method":"ping"}'
        assert read(sent["body"])["params"]["_meta"] == {NAME: 'Bearer a"b\\c'}


@pytest.mark.parametrize("name", [NAME, "Com.Example/TOKEN"])
async def test_a_client_that_brings_the_member_itself_is_refused_before_anything(
    stand: Any, serve: Any, recorder: Any, name: str
):
    async with (
        serve(recorder) as url,
        stand(UpstreamOptions(name="up", url=f"{url}/mcp", inject=IN_META)) as made,
    ):
        made.authority.credential = TOKEN
        call = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "echo", "_meta": {name: "mine"}},
        }
        got = await made.post(json.dumps(call))
        assert json.loads(got.body)["error"]["code"] == -32602
        assert made.authority.calls == []
        assert recorder.heard == []


async def test_a_process_gets_it_in_meta_and_keeps_its_own_progress_token(stand: Any):
    inject = Injection(meta={NAME: "{password}"})
    async with stand(options(inject=inject)) as made, connected(made, ERAS[1]) as client:
        made.authority.credential = minted(1)
        steps: list[float] = []

        async def note(step: float, *_: Any) -> None:
            steps.append(step)

        await client.call_tool("steps", {"count": 2}, progress_callback=note)
        assert steps == [1, 2]
        # The same process serves all: nothing of it is in its environment.
        assert "minted" not in str((await about(client))["env"])


@pytest.mark.parametrize("governed", [True, False])
async def test_a_header_of_an_answer_gives_no_credential_away(
    stand: Any, serve: Any, recorder: Any, *, governed: bool
):
    async def script(_: Any, __: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"x-key", b"is minted-password-1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"jsonrpc":"2.0","id":1,"result":{}}'})

    recorder.script = script
    inject = Injection(headers={"Authorization": "{password}"})
    async with (
        serve(recorder) as url,
        stand(UpstreamOptions(name="up", url=f"{url}/mcp", inject=inject)) as made,
    ):
        made.authority.credential = minted(1)
        made.authority.leases.alive = {"minted-password-1": "lease_1"}
        method, params = ("tools/call", {"name": "echo"}) if governed else ("ping", {})
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        got = await made.post(json.dumps(message))
        assert got.status == 200
        assert got.headers["x-key"] == "is [removed by remit: remit.credential]"


# What the operator says


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"command": ("x", "--password={password}")}, "`command` may not hold a credential"),
        ({"command": (), "url": "https://x/{token}", "env": {}}, "`url` may not hold a credential"),
    ],
)
def test_a_credential_in_an_argument_or_an_address_is_refused(wrong: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        options(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"meta": {"progressToken": "{t}"}},
        {"meta": {"io.modelcontextprotocol/x": "{t}"}},
        {"meta": {"tools.mcp.com/x": "{t}"}},
        {"meta": {"a b": "{t}"}},
        {"meta": {"com.example/a": "{t}", "com.example/A": "{t}"}},
        {"environment": {"A=B": "{t}"}},
        {"headers": {"Host": "{t}"}},
    ],
)
def test_a_place_that_is_none_for_a_credential_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError):
        Injection(**wrong)
