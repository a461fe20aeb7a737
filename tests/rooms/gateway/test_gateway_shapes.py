"""Messages of every shape, in both eras and over both transports: no failure inside, nothing stuck."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remit.gateway.options import UpstreamOptions

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
SERVER = """
import json, sys
for line in sys.stdin.buffer:
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    found = {"content": [{"type": "text", "text": str(len(line.decode().splitlines()))}]}
    found |= {"resultType": "complete"}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": found}), flush=True)
"""

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats()
    | st.text(max_size=8)
    | st.just("x" * 10_000)
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
_methods = ("tools/call", "tools/list", "prompts/get", "resources/read", "initialize", "ping")
methods = st.sampled_from([*_methods, "notifications/cancelled", "notifications/progress"])
metas = st.fixed_dictionaries(
    {},
    optional={"progressToken": anything, "io.modelcontextprotocol/subscriptionId": anything}
    | dict.fromkeys(META, anything),
)
params = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("echo") | anything,
        "uri": anything,
        "arguments": st.just({"text": "a"}) | anything,
        "requestId": anything,
        "cursor": anything,
        "_meta": metas | anything,
    },
)
messages = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0")},
    optional={
        "id": st.sampled_from([1, "1"]) | anything,
        "method": methods | anything,
        "params": params | anything,
        "result": anything,
        "error": anything,
    },
)


def headers_of(message: dict[str, Any], era: str) -> dict[str, str]:
    """Return the headers that an honest client would send with it, as far as HTTP can hold them."""
    if era == "older":
        return {}
    sent = {"mcp-protocol-version": "2026-07-28", "mcp-method": str(message.get("method"))}
    inside = message.get("params")
    if isinstance(inside, dict) and "name" in inside:
        sent["mcp-name"] = str(inside["name"])
    return {k: v for k, v in sent.items() if v.isascii() and v.isprintable() and len(v) < 100}


def finished(message: dict[str, Any], era: str) -> dict[str, Any]:
    inside = message.get("params")
    if era == "newer" and isinstance(inside, dict):
        meta = inside.get("_meta", {})
        if isinstance(meta, dict):
            message = message | {"params": inside | {"_meta": META | meta}}
    return message


@pytest.mark.parametrize(
    "how", [(way, era) for way in ("http", "stdio") for era in ("older", "newer")], ids="-".join
)
@given(many=st.lists(messages, min_size=5, max_size=25))
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_no_shape_breaks_the_gateway_or_sticks(
    stand: Any, serve: Any, recorder: Any, how: tuple[str, str], many: list[dict[str, Any]]
):
    way, era = how
    async with serve(recorder) as url:
        ways = {
            "http": {"url": f"{url}/mcp"},
            "stdio": {"command": (sys.executable, "-S", "-E", "-c", SERVER)},
        }
        up = UpstreamOptions(name="up", answer_seconds=1, stop_seconds=0.2, **ways[way])
        async with stand(up) as made:
            session = {}
            if era == "older" and way == "stdio":
                opened = await made.post(json.dumps(_request("initialize", 0)))
                session = {"mcp-session-id": opened.headers["mcp-session-id"]}
            for drawn in many:
                message = finished(drawn, era)
                got = await made.post(json.dumps(message), **headers_of(message, era), **session)
                assert got.status < 500, (message, got.body)
                assert b"-32603" not in got.body, (message, got.body)
            for identity in (1, "1"):
                call = _request("tools/call", identity, name="echo", arguments={"text": "still"})
                call = finished(call, era)
                got = await made.post(json.dumps(call), **headers_of(call, era), **session)
                assert (got.status, b'"result"' in got.body) == (200, True)


def _request(method: str, identity: object, **params: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}


@pytest.mark.parametrize("era", ["older", "newer"])
async def test_no_reader_of_lines_finds_a_message_in_an_argument(stand: Any, era: str):
    hidden = '{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"rm"}}'
    text = "".join(f"{end}{hidden}{end}" for end in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n")
    async with stand(
        UpstreamOptions(name="up", command=(sys.executable, "-S", "-E", "-c", SERVER))
    ) as made:
        session = {}
        if era == "older":
            opened = await made.post(json.dumps(_request("initialize", 0)))
            session = {"mcp-session-id": opened.headers["mcp-session-id"]}
        call = finished(_request("tools/call", 1, name="echo", arguments={"text": text}), era)
        body = json.dumps(call, ensure_ascii=False)
        got = await made.post(body, **headers_of(call, era), **session)
    assert json.loads(got.body)["result"]["content"][0]["text"] == "1"
