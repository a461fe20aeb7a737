"""A long-running task of an upstream belongs to the workload whose call made it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from remit.gateway.handles import Handles

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
B = {"authorization": "Bearer token-b", "remit_task": "b:task_2"}
ABOUT = ("tasks/get", "tasks/result", "tasks/update", "tasks/cancel")
MADE = {
    "older": {"task": {"taskId": "t1", "status": "working"}},
    "newer": {"resultType": "task", "taskId": "t1", "status": "working"},
}


def upstream(recorder: Any, results: dict[str, Any]) -> None:
    async def script(request: Any, receive: Any, send: Any) -> None:
        message = json.loads(request["body"])
        result = results.get(message["method"], {"taskId": "t1", "status": "working"})
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    recorder.script = script


async def ask(plain: Any, era: str, method: str, as_whom: dict[str, str], **params: Any) -> Any:
    headers = {}
    if era == "newer":
        params["_meta"] = META
        headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
        headers |= {"mcp-name": params.get("name", params.get("taskId", ""))}
    body = {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}
    got = await plain.post(json.dumps(body), **headers, **as_whom)
    return json.loads(got.body)


@pytest.mark.parametrize("era", MADE)
async def test_a_handle_is_good_for_the_caller_it_was_given_to(plain: Any, recorder: Any, era: str):
    upstream(recorder, {"tools/call": MADE[era]})
    before = await ask(plain, era, "tasks/get", {}, taskId="t1")
    assert before["error"]["code"] == -32602
    assert recorder.heard == []
    await ask(plain, era, "tools/call", {}, name="echo", arguments={})
    about = ABOUT if era == "older" else ("tasks/get", "tasks/update", "tasks/cancel")
    for method in about:
        assert "result" in await ask(plain, era, method, {}, taskId="t1"), method
    heard = len(recorder.heard)
    for method in about:
        for handle in ("t1", "t2", "T1", "", None, ["t1"], {"t1": 1}):
            if era == "newer" and not isinstance(handle, str):
                continue
            told = await ask(plain, era, method, B, taskId=handle)
            assert told["error"]["code"] == -32602, method
    assert len(recorder.heard) == heard


async def test_a_listing_of_tasks_shows_the_callers_own(plain: Any, recorder: Any):
    listed = {"tasks": [{"taskId": name, "status": "working"} for name in ("t1", "t2")]}
    listed["nextCursor"] = "c"
    upstream(recorder, {"tools/call": MADE["older"], "tasks/list": listed})
    await ask(plain, "older", "tools/call", {}, name="echo", arguments={})
    mine = await ask(plain, "older", "tasks/list", {})
    assert [each["taskId"] for each in mine["result"]["tasks"]] == ["t1"]
    assert mine["result"]["nextCursor"] == "c"
    assert (await ask(plain, "older", "tasks/list", B))["result"]["tasks"] == []
    upstream(recorder, {"tasks/list": {"tasks": ["t1", 7]}})
    assert "error" in await ask(plain, "older", "tasks/list", {})


async def test_what_the_newer_era_took_away_is_no_method_of_it(plain: Any, recorder: Any):
    for method in ("tasks/result", "tasks/list"):
        told = await ask(plain, "newer", method, {}, taskId="t1")
        assert told["error"]["code"] == -32601
    assert recorder.heard == []


async def test_a_header_that_names_another_handle_is_refused(plain: Any, recorder: Any):
    upstream(recorder, {"tools/call": MADE["newer"]})
    await ask(plain, "newer", "tools/call", {}, name="echo", arguments={})
    told = await ask(plain, "newer", "tasks/get", {}, taskId="t1", name="t2")
    assert told["error"]["code"] == -32020
    assert len(recorder.heard) == 1


def test_a_handle_that_is_given_away_twice_stays_with_the_first_and_old_ones_are_forgotten():
    handles = Handles(limit=2)

    def made(name: str) -> bytes:
        return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"taskId": name}}).encode()

    listed = json.dumps({"result": {"tasks": [{"taskId": n} for n in "abc"]}}).encode()
    for owner, name in (("x", "a"), ("y", "a"), ("y", "b")):
        handles.note("up", owner, made(name))
    for noise in (b"", b"{}", b'{"taskId":1}', b'{"result":{"taskId":7}}', b'{"result":"taskId"}'):
        handles.note("up", "z", noise)
    assert b'"a"' in handles.cut("up", "x", listed)
    assert b'"a"' not in handles.cut("up", "y", listed)
    assert b'"a"' not in handles.cut("other", "x", listed)
    handles.note("up", "y", made("c"))
    assert b'"a"' not in handles.cut("up", "x", listed)
