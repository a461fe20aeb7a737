"""The database as an upstream, without a database: what it tells of a call, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sql_cases import TABLES

from remit.gateway.forward import UnreachableError
from remit.gateway.governed import digest_of
from remit.gateway.options import UpstreamOptions
from remit.gateway.sql.options import SqlOptions
from remit.gateway.sql.running import Rows
from remit.gateway.sql.upstream import SqlUpstream
from remit.gateway.upstream import Outgoing, Understanding
from remit.gateway.wire import Message
from remit.model.call import CALL_TOOL, READ_RESOURCE, Call
from remit.model.errors import ConfigError, InputError
from remit.model.lease import Credential


def database() -> SqlUpstream:
    options = SqlOptions(tables=TABLES, default_schema="crm", connect_seconds=2)
    return SqlUpstream(UpstreamOptions(name="crm", sql=options))


def call(name: str = "query", action: str = CALL_TOOL, **arguments: Any) -> Call:
    return Call(
        id="call_1",
        action=action,
        upstream="crm",
        name=name,
        arguments=arguments,
        digest=digest_of(action, f"crm/{name}", arguments),
    )


def message(method: str, *, modern: bool = True, **params: Any) -> Message:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return Message(body, "request", method, 1, params, modern)


async def answered(asked: Message, credential: Credential | None = None) -> dict[str, Any]:
    request = Outgoing(method="POST", headers=[], message=asked, credential=credential)
    answer = await database().send(request)
    whole: dict[str, Any] = json.loads(b"".join([chunk async for chunk in answer.chunks()]))
    return whole


async def test_what_a_statement_touches_stands_among_the_arguments_and_in_the_digest():
    asked = call(sql="select name from customer where id = $1", parameters=[1])
    upstream = database()
    assert isinstance(upstream, Understanding)
    told = await upstream.understand(asked)
    assert told.arguments == {
        "sql": "select name from customer where id = $1",
        "parameters": [1],
        "statement": "select",
        "tables": ["crm.customer"],
        "reads": ["crm.customer.id", "crm.customer.name"],
        "writes": [],
    }
    assert told.digest == digest_of(CALL_TOOL, "crm/query", told.arguments) != asked.digest
    assert told.id == asked.id


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("query", {}, "sql"),
        ("query", {"sql": 1}, "sql"),
        ("query", {"sql": ["select 1"]}, "sql"),
        ("query", {"sql": "select 1", "tables": []}, "tables"),
        ("query", {"sql": "select 1", "statement": "select"}, "statement"),
        ("query", {"sql": "select 1", "reads": []}, "reads"),
        ("query", {"sql": "select 1", "parameters": {}}, "list"),
        ("query", {"sql": "select 1", "parameters": [1]}, "0 parameters"),
        ("query", {"sql": "select $1", "parameters": []}, "1 parameters"),
        ("query", {"sql": "select $1"}, "1 parameters"),
        ("query", {"sql": "select $1", "parameters": [[1]]}, "parameter"),
        ("query", {"sql": "select $1", "parameters": [{"a": 1}]}, "parameter"),
        ("query", {"sql": "select $1", "parameters": ["a\x00b"]}, "parameter"),
        ("query", {"sql": "delete from customer"}, "`execute`"),
        ("execute", {"sql": "select 1"}, "`query`"),
        ("drop", {"sql": "select 1"}, "no tool `drop`"),
        ("query", {"sql": "select pg_read_file('x')"}, "pg_read_file"),
    ],
)
async def test_a_call_that_cannot_be_told_is_refused_before_and_again_when_it_is_made(
    name: str, arguments: dict[str, Any], words: str
):
    with pytest.raises(InputError, match=words):
        await database().understand(call(name, **arguments))
    told = await answered(
        message("tools/call", name=name, arguments=arguments),
        Credential(values={"url": "postgresql://u:p@127.0.0.1:1/d"}),
    )
    assert told["result"]["isError"] is True
    assert words in told["result"]["content"][0]["text"]


async def test_what_is_no_tool_call_is_left_as_it_is():
    asked = call("x", READ_RESOURCE)
    assert await database().understand(asked) is asked


async def test_without_a_credential_or_a_database_nothing_ran_and_no_secret_is_told():
    asked = message("tools/call", name="query", arguments={"sql": "select 1"})
    with pytest.raises(UnreachableError, match="no credential"):
        await answered(asked)
    with pytest.raises(UnreachableError, match="url"):
        await answered(asked, Credential(values={"token": "x"}))
    given = Credential(values={"url": "postgresql://u:s3cret-word@127.0.0.1:1/d"})
    with pytest.raises(UnreachableError) as caught:
        await answered(asked, given)
    assert "s3cret-word" not in str(caught.value)


@pytest.mark.parametrize("modern", [True, False])
async def test_it_lists_two_tools_in_either_era_and_knows_no_other_method(modern: bool):
    told = (await answered(message("tools/list", modern=modern)))["result"]
    assert {tool["name"] for tool in told["tools"]} == {"query", "execute"}
    assert told.get("resultType") == ("complete" if modern else None)
    assert "error" in await answered(message("resources/list", modern=modern))


@pytest.mark.parametrize(
    "changes",
    [
        {"tables": {}},
        {"tables": {"customer": ("id",)}},
        {"tables": {".customer": ("id",)}},
        {"tables": {"crm.": ("id",)}},
        {"tables": {"crm.customer": ()}},
        {"tables": {"crm.customer": ("id", "id")}},
        {"tables": {"crm.customer": ("a\x00",)}},
        {"tables": {"crm.customer": ("x" * 64,)}},
        {"tables": TABLES, "max_rows": 0},
        {"tables": TABLES, "statement_seconds": float("nan")},
    ],
)
def test_a_catalogue_that_makes_no_sense_is_refused(changes: dict[str, Any]):
    with pytest.raises(ConfigError, match="sql"):
        SqlOptions(**changes)


def test_what_json_cannot_hold_is_told_as_text():
    found = Rows(columns=("a",), rows=[(2**60,), (b"\x00\xff",), ({"k": [2**60]},), (True,)])
    rows = json.loads(found.json())["rows"]
    assert rows == [[str(2**60)], ["\\x00ff"], [{"k": [str(2**60)]}], [True]]
