"""The helpdesk example, over both transports, as a client sees it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult
from processes import ROOT, free_port, python, running

SERVER = ROOT / "examples" / "helpdesk" / "server.py"


def over_stdio(database: Path) -> Client:
    command, *arguments = python(SERVER, "--database", database)
    return Client(StdioServerParameters(command=str(command), args=[str(a) for a in arguments]))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One helpdesk over HTTP for the whole module; each test works on its own records."""
    folder = tmp_path_factory.mktemp("desk")
    port = free_port()
    command = python(SERVER, "--database", folder / "desk.sqlite3", "--http", "--port", str(port))
    with running(command, log=folder / "desk.log", port=port):
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture
def desk(url: str) -> Client:
    return Client(url)


async def call(desk: Client, tool: str, **arguments: Any) -> CallToolResult:
    result = await desk.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


def said(result: CallToolResult) -> str:
    return " ".join(block.text for block in result.content if block.type == "text")


async def test_every_tool_describes_itself_each_argument_and_whether_it_acts(desk: Client):
    async with desk as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {
        "search",
        "get_customer",
        "list_tickets",
        "get_ticket",
        "draft_reply",
        "send_reply",
        "refund",
    }
    for tool in tools.values():
        assert tool.description
        assert tool.output_schema
        for argument in tool.input_schema["properties"].values():
            assert argument["description"]
    reading = {name for name, t in tools.items() if t.annotations and t.annotations.read_only_hint}
    assert reading == {"search", "get_customer", "list_tickets", "get_ticket"}
    acting = {name for name, t in tools.items() if t.annotations and t.annotations.destructive_hint}
    assert acting == {"send_reply", "refund"}


async def test_over_stdio_a_new_file_is_seeded_once_and_kept(tmp_path: Path):
    database = tmp_path / "new" / "desk.sqlite3"
    async with over_stdio(database) as client:
        customer = await call(client, "get_customer", id="88")
        assert customer.structured_content
        assert customer.structured_content["name"] == "Dana Whitfield"
        assert [o["id"] for o in customer.structured_content["orders"]] == ["1234", "1235"]
        drafted = await call(client, "draft_reply", ticket="5012", body="Try some candle wax.")
        assert drafted.structured_content == {"reply": "1", "ticket": "5012", "state": "draft"}
    async with over_stdio(database) as again:
        ticket = await call(again, "get_ticket", id="5012")
        assert ticket.structured_content
        assert ticket.structured_content["replies"] == [
            {"id": "1", "state": "draft", "body": "Try some candle wax."}
        ]
    with contextlib.closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT count(*) FROM customer").fetchone() == (8,)


async def test_tickets_come_newest_first_and_a_search_finds_people(desk: Client):
    async with desk as client:
        tickets = await call(client, "list_tickets", customer="88", state="open")
        assert tickets.structured_content
        assert [t["id"] for t in tickets.structured_content["result"]] == ["5017", "5012"]
        found = await call(client, "search", query="okafor")
        assert found.structured_content == {
            "result": [{"kind": "customer", "id": "12", "title": "Ines Okafor"}]
        }


async def test_a_draft_is_sent_once(desk: Client):
    async with desk as client:
        drafted = await call(client, "draft_reply", ticket="5017", body="Here is the invoice.")
        assert drafted.structured_content
        reply = drafted.structured_content["reply"]
        sent = await call(client, "send_reply", reply=reply)
        assert sent.structured_content
        assert sent.structured_content["to"] == "dana.whitfield@example.com"
        again = await call(client, "send_reply", reply=reply)
        assert again.is_error
        assert said(again) == f"Error executing tool send_reply: reply `{reply}` was sent already"


async def test_refunds_stop_at_the_price_and_a_refused_one_changes_nothing(desk: Client):
    async with desk as client:
        first = await call(client, "refund", order="1235", amount=40.25, reason="broken torch")
        assert first.structured_content
        assert first.structured_content["left"] == "8.25"
        second = await call(client, "refund", order="1235", amount=8.26, reason="the rest")
        assert second.is_error
        assert (
            said(second) == "Error executing tool refund: order `1235` has 8.25 USD left to refund"
        )
        third = await call(client, "refund", order="1235", amount=8.25, reason="the rest")
        assert third.structured_content
        assert third.structured_content["left"] == "0.00"


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("get_customer", {"id": "99999"}, "there is no customer `99999`"),
        ("list_tickets", {"customer": "99999"}, "there is no customer `99999`"),
        ("get_ticket", {"id": "1"}, "there is no ticket `1`"),
        ("draft_reply", {"ticket": "1", "body": "hello"}, "there is no ticket `1`"),
        ("draft_reply", {"ticket": "4988", "body": "hello"}, "ticket `4988` is closed"),
        ("send_reply", {"reply": "7"}, "there is no reply `7`"),
        ("refund", {"order": "1", "amount": 1, "reason": "none"}, "there is no order `1`"),
        ("refund", {"order": "1234", "amount": 1.005, "reason": "none"}, "two decimals"),
        ("refund", {"order": "1234", "amount": -5, "reason": "none"}, "greater than 0"),
        ("refund", {"order": "1234", "amount": 1e308, "reason": "none"}, "less than or equal"),
        ("get_customer", {"id": "88' OR '1'='1"}, "match pattern"),
        ("get_customer", {}, "Field required"),
        ("delete_everything", {}, "Unknown tool"),
    ],
)
async def test_what_cannot_be_done_is_a_tool_error_in_words(
    desk: Client, tool: str, arguments: dict[str, Any], told: str
):
    async with desk as client:
        result = await call(client, tool, **arguments)
    assert result.is_error
    assert told in said(result)


async def test_a_search_for_a_wildcard_finds_only_the_wildcard(desk: Client):
    async with desk as client:
        result = await call(client, "search", query="%%")
        assert result.structured_content == {"result": []}
