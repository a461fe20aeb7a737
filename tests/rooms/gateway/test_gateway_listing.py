"""What a listing shows, Remit's own tools, and what a scan hands to the catalogue."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from remit.gateway.options import GatewayOptions, UpstreamOptions
from remit.gateway.scan import scan
from remit.model.errors import ConfigError, NotFoundError, UpstreamError

BARE = (sys.executable, "-S", "-E", str(Path(__file__).with_name("bare_server.py")))
LIST = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
PLAIN = {"authorization": "Bearer token-g", "remit_task": ""}
ECHO = (
    '{"name":"echo", "inputSchema":{"type":"object","$defs":{"a":{"$anchor":"b"}},'
    '"properties":{"n":{"const":1.50}}},\t"x-unknown":[1 ]}'
)
OTHER = '{"name":"other","inputSchema":{"type":"object"}}'


def listing(*tools: str, extra: str = "") -> Any:
    body = (
        '{"jsonrpc":"2.0","id":1,"result":{"nextCursor":"c",'
        f'"tools":[{",".join(tools)}],"ttlMs":5{extra}}}}}'
    )

    async def script(request: Any, receive: Any, send: Any) -> None:
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body.encode()})

    return script


def call(name: str, **arguments: Any) -> str:
    params = {"name": name, "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})


def names(got: Any) -> list[str]:
    return [tool["name"] for tool in json.loads(got.body)["result"]["tools"]]


async def test_a_listing_is_cut_to_what_the_task_could_be_allowed_and_keeps_every_byte_of_it(
    plain: Any, recorder: Any
):
    recorder.script = listing(ECHO, OTHER, extra=',"cacheScope":"public"')
    plain.authority.policy.hidden.add("up/other")
    got = await plain.post(LIST)
    assert names(got) == ["echo"]
    assert ECHO in got.text
    assert json.loads(got.body)["result"]["cacheScope"] == "private"
    assert json.loads(got.body)["result"]["nextCursor"] == "c"
    assert plain.authority.catalogue.seen["up/echo"].json_bytes == ECHO.encode()


async def test_a_listing_in_a_stream_is_cut_as_well(plain: Any, recorder: Any):
    async def script(request: Any, receive: Any, send: Any) -> None:
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        data = f'data: {{"jsonrpc":"2.0","id":1,"result":{{"tools":[{ECHO},{OTHER}]}}}}\n\n'
        await send({"type": "http.response.body", "body": data.encode()})

    recorder.script = script
    plain.authority.policy.hidden.add("up/echo")
    got = await plain.post(LIST)
    assert got.headers["content-type"] == "text/event-stream"
    assert OTHER in got.text
    assert "echo" not in got.text


async def test_a_changed_definition_is_withheld(plain: Any, recorder: Any):
    recorder.script = listing(ECHO, OTHER)
    plain.authority.catalogue.changed.add("up/echo")
    assert names(await plain.post(LIST)) == ["other"]


async def test_a_listing_that_cannot_be_read_is_shown_to_nobody(plain: Any, recorder: Any):
    for bad in ('{"no":"name"}', "7", '{"name":7}'):
        recorder.script = listing(ECHO, bad)
        got = await plain.post(LIST)
        assert "cannot be read" in json.loads(got.body)["error"]["message"]


async def test_an_agent_without_a_task_sees_nothing_unless_it_may_begin_one(
    plain: Any, recorder: Any
):
    recorder.script = listing(ECHO, OTHER, '{"name":"remit_begin_task","inputSchema":{}}')
    assert names(await plain.post(LIST, remit_task="")) == []
    own = ["remit_begin_task", "remit_task_status", "remit_complete_task"]
    assert names(await plain.post(LIST, **PLAIN)) == ["echo", *own]
    assert names(await plain.post(LIST)) == ["echo", "other"]
    paged = LIST.replace('"tools/list"', '"tools/list","params":{"cursor":"c"}')
    assert names(await plain.post(paged, **PLAIN)) == ["echo"]


async def test_a_plain_client_begins_works_asks_and_completes(plain: Any, recorder: Any):
    async def own(name: str, **arguments: Any) -> Any:
        return json.loads((await plain.post(call(name, **arguments), **PLAIN)).body)["result"]

    assert "begin one" in (await own("remit_task_status"))["content"][0]["text"]
    refused = json.loads((await plain.post(call("echo"), **PLAIN)).body)["result"]
    assert refused["isError"]
    assert recorder.heard == []

    for wrong in (
        {"template": "other", "purpose": "p"},
        {"template": "work"},
        {"template": "work", "purpose": "p", "budget": "9"},
        {"template": "work", "purpose": 7},
        {"template": "work", "purpose": "p\nowner: root"},
        {"template": "work", "purpose": "p\x1b[2J"},
        {"template": "work", "purpose": "p", "on_behalf_of": "user:u\x9b1m"},
        {"template": "work", "purpose": "p", "prompt": "do it\x1b]0;x\x07"},
    ):
        assert (await own("remit_begin_task", **wrong))["isError"]
    assert plain.authority.tasks.requests == []

    begun = await own(
        "remit_begin_task", template="work", purpose="p", prompt="do it", on_behalf_of="user:u"
    )
    assert not begun["isError"]
    assert begun["structuredContent"]["task"] == "task_1"
    assert "opened:" not in json.dumps(begun)
    request = plain.authority.tasks.requests[0]
    assert (request.template, request.prompt, request.on_behalf_of) == ("work", "do it", "user:u")
    assert (await own("remit_begin_task", template="work", purpose="p"))["isError"]

    worked = await plain.post(call("echo"), **PLAIN)
    assert "isError" not in worked.text
    assert plain.authority.claims[-1].task_token == "opened:task_1"
    status = await own("remit_task_status")
    assert status["structuredContent"]["state"] == "open"
    done = await own("remit_complete_task")
    assert done["structuredContent"] == {"task": "task_1", "state": "completed"}
    assert json.loads((await plain.post(call("echo"), **PLAIN)).body)["result"]["isError"]


async def test_of_tasks_that_are_begun_at_once_only_one_is(plain: Any, until: Any):
    tasks, asked = plain.authority.tasks, []
    go_on, opening = asyncio.Event(), tasks.open

    async def slow(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        await go_on.wait()
        return await opening(*args, **kwargs)

    tasks.open = slow
    begin = call("remit_begin_task", template="work", purpose="p")
    posts = [asyncio.create_task(plain.post(begin, **PLAIN)) for _ in range(8)]
    await until(lambda: sum(post.done() for post in posts) == 7)
    go_on.set()
    results = [json.loads((await post).body)["result"] for post in posts]
    assert sorted(result["isError"] for result in results) == [False] + [True] * 7
    assert len(asked) == 1


async def test_a_task_whose_client_left_while_it_was_begun_is_current_all_the_same(
    plain: Any, until: Any
):
    tasks = plain.authority.tasks
    go_on, opening = asyncio.Event(), tasks.open

    async def slow(*args: Any, **kwargs: Any) -> Any:
        await go_on.wait()
        return await opening(*args, **kwargs)

    tasks.open = slow
    begin = call("remit_begin_task", template="work", purpose="p")
    post = asyncio.create_task(plain.post(begin, **PLAIN))
    await until(lambda: bool(plain.gateway.house.beginning))
    post.cancel()
    await asyncio.gather(post, return_exceptions=True)
    go_on.set()
    await until(lambda: not plain.gateway.house.beginning)
    status = json.loads((await plain.post(call("remit_task_status"), **PLAIN)).body)["result"]
    assert status["structuredContent"]["task"] == "task_1"


async def test_the_own_tools_are_no_way_in_for_others(plain: Any, recorder: Any):
    got = await plain.post(call("remit_begin_task", template="work", purpose="p"))
    assert plain.authority.tasks.requests == []
    assert plain.authority.calls[0].target == "up/remit_begin_task"
    assert got.status == 200


async def test_a_scan_shows_the_catalogue_raw_definitions_over_stdio_and_http(
    stand: Any, serve: Any
):
    behind = UpstreamOptions(name="behind", command=BARE)
    async with stand(behind) as first:
        found = await scan(first.gateway, "behind")
        assert [tool.target for tool in found] == ["behind/echo"]
        seen = first.authority.catalogue.seen["behind/echo"].json_bytes
        assert json.loads(seen)["inputSchema"]["$defs"] == {"a": {"$anchor": "b"}}
        assert first.gateway.upstreams["behind"]._shared == {}


async def test_a_scan_falls_back_to_the_older_era(stand: Any, serve: Any, recorder: Any):
    async def script(request: Any, receive: Any, send: Any) -> None:
        message = json.loads(request["body"] or b"{}")
        head = [(b"content-type", b"application/json")]
        status, result = 200, {}
        if message.get("method") == "initialize":
            head.append((b"mcp-session-id", b"s"))
            result = {"protocolVersion": "2025-11-25"}
        elif message.get("method") == "tools/list":
            page = message["params"].get("cursor")
            result = {"tools": [{"name": f"t{page}"}]} | ({} if page else {"nextCursor": "2"})
        elif message.get("method") != "notifications/initialized" and message:
            status = 400
        body = {"jsonrpc": "2.0", "id": message.get("id")}
        body |= {"result": result} if status == 200 else {"error": {"code": -32601}}
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    recorder.script = script
    async with serve(recorder) as url, stand(UpstreamOptions(name="up", url=url)) as made:
        found = await scan(made.gateway, "up")
        assert [tool.target for tool in found] == ["up/tNone", "up/t2"]
        assert recorder.heard[-1]["method"] == "DELETE"


async def test_a_scan_of_what_is_not_there_says_so(stand: Any):
    async with stand(UpstreamOptions(name="up", url="http://127.0.0.1:9/")) as made:
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await scan(made.gateway, "up")
        with pytest.raises(NotFoundError):
            await scan(made.gateway, "other")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Up"},
        {"name": "a/b"},
        {"url": None},
        {"command": ("x",)},
        {"url": "ftp://x"},
        {"url": "http://user:secret@host/"},
        {"env": {"A": "b"}},
        {"connect_seconds": 0},
        {"answer_seconds": -1.0},
    ],
)
def test_an_upstream_that_makes_no_sense_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError) as caught:
        UpstreamOptions(**({"name": "up", "url": "http://host/mcp"} | wrong))
    assert "secret" not in str(caught.value)


def test_a_gateway_that_makes_no_sense_is_refused():
    for wrong in ({"public_url": "x"}, {"allowed_hosts": ()}, {"max_body_bytes": 0}):
        with pytest.raises(ConfigError):
            GatewayOptions(**wrong)
