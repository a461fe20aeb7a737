"""What must be refused, and that the upstream hears nothing of it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from yarl import URL

from remit.gateway.options import GatewayOptions, UpstreamOptions

CALL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":%s}}'
READ = '{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"%s"}}'
MODERN = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "echo"}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


def modern(**params: object) -> str:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    return json.dumps(body | {"params": {"name": "echo", "arguments": {}, "_meta": META} | params})


REFUSED = {
    "no json": ("{", -32700),
    "no utf-8": (b'{"a":"\xff"}', -32700),
    "a byte order mark": (b'\xef\xbb\xbf{"jsonrpc":"2.0"}', -32700),
    "nan": (CALL % '{"a":NaN}', -32700),
    "infinity": (CALL % '{"a":-Infinity}', -32700),
    "a duplicate key": (CALL % '{"a":1,"a":2}', -32600),
    "a key that differs only in case": (CALL % '{"path":"/tmp","Path":"/etc"}', -32600),
    "a key that folds to another": (CALL % '{"\u017f":1,"s":2}', -32600),
    "two names": (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","name":"rm"}}',
        -32600,
    ),
    "two methods": (
        '{"jsonrpc":"2.0","id":1,"method":"ping","METHOD":"tools/call","params":{}}',
        -32600,
    ),
    "a number beyond 2^53": (CALL % '{"a":9007199254740993}', -32600),
    "a number too large for a double": (CALL % '{"a":1e999}', -32600),
    "more digits than a double holds": (
        CALL % '{"a":0.1000000000000000055511151231257827}',
        -32600,
    ),
    "a whole number that is written as a real": (CALL % '{"a":9007199254740993.0}', -32600),
    "a number too small for a double": (CALL % '{"a":1e-999999999999999999999}', -32600),
    "a number of a million digits": (CALL % ('{"a":0.%s}' % ("1" * 500_000)), -32600),
    "too many arguments": (
        CALL % ("{" + ",".join(f'"a{n}":1' for n in range(60_000)) + "}"),
        -32600,
    ),
    "too many elements": (CALL % ('{"a":[' + "[]," * 150_000 + "[]]}"), -32600),
    "half a surrogate pair": (CALL % '{"a":"\\ud800"}', -32600),
    "half a surrogate pair in a key": (CALL % '{"\\udc00":1}', -32600),
    "depth 65": (CALL % ('{"a":' * 63 + "1" + "}" * 63), -32600),
    "depth 100000": ("[" * 100_000, -32600),
    "a batch": (f"[{CALL % '{}'}]", -32600),
    "a string": ('"tools/call"', -32600),
    "no version": ('{"id":1,"method":"ping"}', -32600),
    "a null id": ('{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{}}', -32600),
    "a boolean id": ('{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
    "an object as id": ('{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600),
    "a call without an id": ('{"jsonrpc":"2.0","method":"tools/call","params":{}}', -32600),
    "a notification with an id": (
        '{"jsonrpc":"2.0","id":1,"method":"notifications/cancelled"}',
        -32600,
    ),
    "a call that is also a response": (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{},"result":{}}',
        -32600,
    ),
    "a list of params": ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}', -32602),
    "a list of arguments": (CALL % "[1]", -32602),
    "an object as progress token": (
        CALL.replace('"name"', '"_meta":{"progressToken":{"a":[]}},"name"') % "{}",
        -32602,
    ),
    "a boolean as progress token": (
        CALL.replace('"name"', '"_meta":{"progressToken":true},"name"') % "{}",
        -32602,
    ),
    "a list as meta": (CALL.replace('"name"', '"_meta":[],"name"') % "{}", -32602),
    "a tab in a uri": (READ % "file:///data/.\\t./secret", -32602),
    "a space in a uri": (READ % " file:///data/a", -32602),
    "a backslash in a uri": (READ % "file:///data/..\\\\..\\\\secret", -32602),
    "a uri without an end": (READ % ("file:///" + "a" * 3000), -32602),
    "a name without an end": (CALL.replace("echo", "e" * 3000) % "{}", -32602),
    "no name": ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}', -32602),
    "a number as uri": (
        '{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":7}}',
        -32602,
    ),
}


async def test_an_ambiguous_body_is_refused_before_the_upstream_hears_anything(
    plain: Any, recorder: Any
):
    told = {}
    for case, (body, _) in REFUSED.items():
        got = await plain.post(body)
        told[case] = (got.status, json.loads(got.body).get("error", {}).get("code"))
    assert told == {case: (400, code) for case, (_, code) in REFUSED.items()}
    assert recorder.heard == []
    assert plain.authority.calls == []


async def test_an_oversized_body_is_refused_by_its_declared_and_by_its_real_length(
    stand: Any, serve: Any
):
    async with stand(
        UpstreamOptions(name="up", url="http://127.0.0.1:1/mcp"),
        options=GatewayOptions(max_body_bytes=1000),
    ) as made:
        got = await made.post(CALL % json.dumps({"a": "x" * 1000}))
        assert got.status == 413

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 100

        headers = {"authorization": "Bearer token-a", "content-type": "application/json"}
        async with made.http.post(f"{made.url}/mcp/up", data=pieces(), headers=headers) as answer:
            assert answer.status == 413


MISMATCHES = {
    "another method": {"mcp-method": "ping"},
    "another name": {"mcp-name": "other"},
    "a name missing": {"mcp-name": ""},
    "a method missing": {"mcp-method": ""},
    "a broken base64 name": {"mcp-name": "=?base64?!!?="},
    "another name in base64": {"mcp-name": f"=?base64?{base64.b64encode(b'other').decode()}?="},
    "another version": {"mcp-protocol-version": "2026-07-29"},
    "an older version over a stateless body": {"mcp-protocol-version": "2025-11-25"},
    "no version over a stateless body": {"mcp-protocol-version": ""},
}


async def test_headers_that_disagree_with_the_body_are_refused(plain: Any, recorder: Any):
    told = {}
    for case, headers in MISMATCHES.items():
        got = await plain.post(modern(), **(MODERN | headers))
        told[case] = (got.status, json.loads(got.body).get("error", {}).get("code"))
    assert told == dict.fromkeys(MISMATCHES, (400, -32020))
    assert recorder.heard == []


async def test_a_name_in_base64_that_agrees_is_forwarded_as_it_came(plain: Any, recorder: Any):
    name = f"=?base64?{base64.b64encode(b'echo').decode()}?="
    got = await plain.post(modern(), **(MODERN | {"mcp-name": name}))
    assert got.status == 200
    assert ("mcp-name", name) in recorder.heard[0]["headers"]


async def test_a_deciding_header_given_twice_is_refused(plain: Any, recorder: Any):
    for name in ("mcp-name", "mcp-method", "authorization", "remit-task"):
        headers = [
            ("authorization", "Bearer token-a"),
            ("remit-task", "a:task_1"),
            ("content-type", "application/json"),
            *MODERN.items(),
        ]
        headers.append((name, dict(headers)[name]))
        async with plain.http.post(f"{plain.url}/mcp/up", data=modern(), headers=headers) as got:
            assert got.status == 400
    assert recorder.heard == []


async def test_a_version_that_nobody_knows_is_refused_with_those_that_are(
    plain: Any, recorder: Any
):
    meta = META | {"io.modelcontextprotocol/protocolVersion": "2099-01-01"}
    got = await plain.post(modern(_meta=meta), **(MODERN | {"mcp-protocol-version": "2099-01-01"}))
    error = json.loads(got.body)["error"]
    assert (got.status, error["code"]) == (400, -32022)
    assert error["data"]["supported"] == ["2026-07-28"]
    assert recorder.heard == []


async def test_a_declared_parameter_header_that_disagrees_with_the_argument_is_refused(
    plain: Any, recorder: Any
):
    plain.gateway.house.schemas["up/echo"] = {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    }
    body = modern(arguments={"region": "eu"})
    assert (await plain.post(body, **MODERN, mcp_param_region="us")).status == 400
    assert recorder.heard == []
    assert (await plain.post(body, **MODERN, mcp_param_region="eu", mcp_param_x="1")).status == 200
    assert ("mcp-param-x", "1") in recorder.heard[0]["headers"]


async def test_an_unknown_method_is_denied_in_the_shape_of_its_era(plain: Any, recorder: Any):
    got = await plain.post('{"jsonrpc":"2.0","id":7,"method":"tools/destroy"}')
    assert got.status == 200
    assert json.loads(got.body)["error"]["code"] == -32601
    body = json.dumps(
        {"jsonrpc": "2.0", "id": 7, "method": "tools/destroy", "params": {"_meta": META}}
    )
    got = await plain.post(body, **(MODERN | {"mcp-method": "tools/destroy", "mcp-name": ""}))
    assert got.status == 404
    assert json.loads(got.body)["error"]["code"] == -32601
    assert recorder.heard == []


async def test_nobody_gets_in_without_an_identity_and_is_told_where_to_get_one(
    plain: Any, recorder: Any
):
    got = await plain.post(CALL % "{}", authorization="")
    assert got.status == 401
    where = got.headers["www-authenticate"].split('resource_metadata="')[1].rstrip('"')
    assert where == f"{plain.url}/.well-known/oauth-protected-resource/mcp/up"
    async with plain.http.get(where) as answer:
        told = await answer.json()
    assert told["resource"] == f"{plain.url}/mcp/up"
    assert told["bearer_methods_supported"] == ["header"]
    assert plain.authority.evidence.kinds == []
    assert recorder.heard == []


async def test_an_identity_that_does_not_hold_is_refused_with_a_record(plain: Any, recorder: Any):
    got = await plain.post(CALL % "{}", authorization="Bearer forged")
    assert got.status == 401
    assert 'error="invalid_token"' in got.headers["www-authenticate"]
    assert b"forged" not in got.body
    assert plain.authority.evidence.kinds == ["call.unidentified"]
    assert (await plain.post(CALL % "{}", authorization="Basic YTpi")).status == 401
    assert recorder.heard == []


async def test_a_task_of_another_workload_opens_no_session_and_leaves_a_record(
    plain: Any, recorder: Any
):
    body = '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}'
    got = await plain.post(body, remit_task="b:task_9")
    assert json.loads(got.body)["error"]["code"] == 403
    assert plain.authority.evidence.kinds == ["call.unadmitted"]
    assert recorder.heard == []


async def test_a_host_that_is_not_ours_is_refused(plain: Any, recorder: Any):
    for host in ("evil.example", "127.0.0.1.evil.example:80", "localhost:80x", "localhost:"):
        assert (await plain.post(CALL % "{}", host=host)).status == 403, host
    assert recorder.heard == []


async def test_a_web_page_elsewhere_is_refused(plain: Any, recorder: Any):
    for origin in ("http://evil.example", "null", "https://localhost.evil:1"):
        assert (await plain.post(CALL % "{}", origin=origin)).status == 403, origin
    assert recorder.heard == []


async def test_a_body_of_another_media_type_is_refused(plain: Any, recorder: Any):
    for media in ("text/plain", "application/json; charset=utf-16", "application/jsonp"):
        assert (await plain.post(CALL % "{}", content_type=media)).status == 415, media
    for coding in ("deflate", "gzip", "br"):
        body = (CALL % "{}").encode()
        headers = [
            ("authorization", "Bearer token-a"),
            ("content-type", "application/json"),
            ("content-encoding", coding),
        ]
        async with plain.http.post(
            f"{plain.url}/mcp/up", data=_pieces(body), headers=headers
        ) as got:
            assert got.status == 415
    assert (
        await plain.post(CALL % "{}", content_type='application/json;charset="UTF-8"')
    ).status == 200
    recorder.heard.clear()
    assert recorder.heard == []


async def test_no_credential_of_the_client_reaches_the_upstream(plain: Any, recorder: Any):
    await plain.post(
        CALL % "{}",
        cookie="a=b",
        remit_anything="x",
        dpop="proof",
        proxy_authorization="Basic x",
        x_forwarded_for="10.0.0.1",
        connection="x-drop-me",
        x_drop_me="1",
        x_keep_me="2",
        x_http_method_override="DELETE",
    )
    sent = dict(recorder.heard[0]["headers"])
    assert "token-a" not in str(recorder.heard)
    assert "task_1" not in str(recorder.heard)
    gone = {"authorization", "cookie", "remit-task", "remit-anything", "dpop", "x-forwarded-for"}
    assert not (gone | {"proxy-authorization", "x-drop-me", "x-http-method-override"}) & set(sent)
    assert sent["x-keep-me"] == "2"


async def test_no_header_passes_for_another_where_an_underscore_is_a_hyphen(
    plain: Any, recorder: Any
):
    headers = {"authorization": "Bearer token-a", "remit-task": "a:task_1"}
    headers |= {"content-type": "application/json", "x-keep-me": "1"}
    headers |= {"mcp_session_id": "another", "X_Api_Key": "mine", "mcp_name": "rm"}
    async with plain.http.post(f"{plain.url}/mcp/up", data=CALL % "{}", headers=headers) as got:
        assert got.status == 200
    sent = dict(recorder.heard[0]["headers"])
    assert sent["x-keep-me"] == "1"
    assert not [name for name in sent if "_" in name]


async def test_the_bytes_that_were_evaluated_are_the_bytes_that_are_forwarded(
    plain: Any, recorder: Any
):
    body = (
        b'{ "id" : 1,\t"jsonrpc":"2.0", "params":{"arguments":{"\\u00e9":1.50,"z":[ ]},'
        b'"name":"echo"},\n"method":"tools/call"}'
    )
    await plain.post(body)
    assert recorder.heard[0]["body"] == body
    assert plain.authority.calls[0].arguments == {"é": 1.5, "z": []}


async def test_an_unknown_upstream_is_not_found(plain: Any):
    assert (await plain.post(CALL % "{}", upstream="other")).status == 404
    assert (await plain.post(CALL % "{}", upstream="other", authorization="")).status == 401


async def test_a_path_with_line_breaks_makes_no_header(plain: Any):
    for name in ("a%0d%0aset-cookie:%20x=1", "a%00", 'a"b', "%C3%A9%E2%80%A8", "a%09b", "%ff"):
        for bearer in ("", "Bearer forged"):
            url = URL(f"{plain.url}/mcp/{name}", encoded=True)
            headers = {"authorization": bearer} if bearer else {}
            async with plain.http.post(url, data=b"{}", headers=headers) as got:
                assert got.status == 401, name
                assert "set-cookie" not in got.headers
                told = got.headers["www-authenticate"]
                assert told.isascii()
                assert told.endswith('"')
