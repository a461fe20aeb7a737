"""The helpdesk behind a real Remit: what its agent may do happens, and nothing else does."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import House, effect, house, refused_by, words
from processes import ROOT

pytestmark = pytest.mark.real

EXAMPLES = ROOT / "examples"
TEMPLATE = "support.draft"
AGENT = "support-agent"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("helpdesk")


@pytest.fixture(scope="module")
def desk(folder: Path) -> Iterator[House]:
    server = EXAMPLES / "helpdesk" / "server.py"
    command = [sys.executable, str(server), "--database", str(folder / "desk.sqlite3")]
    upstream = f"[upstream.helpdesk]\ncommand = {json.dumps(command)}\n"
    with house(folder, upstream, EXAMPLES / "quickstart" / "templates") as running:
        running.register(AGENT, TEMPLATE)
        running.register("other-agent", TEMPLATE)
        yield running


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "desk.sqlite3")) as db:
        return db.execute(query).fetchall()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_of_either_era_sees_and_does_only_what_its_task_is_for(
    desk: House, folder: Path, mode: str
):
    task = desk.open(TEMPLATE, AGENT)
    async with desk.client("helpdesk", AGENT, task["task_token"], mode) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert {"get_customer", "list_tickets", "draft_reply"} <= listed
        assert not {"send_reply", "refund", "search", "get_ticket"} & listed

        customer = await client.call_tool("get_customer", {"id": "88"})
        assert effect(customer) == "permit"
        assert "Dana Whitfield" in words(customer)

        other = await client.call_tool("get_customer", {"id": "12"})
        assert effect(other) == "deny"
        assert "Okafor" not in words(other)
        assert "argument `id` has to be" in words(other)

        drafted = await client.call_tool("draft_reply", {"ticket": "5012", "body": "Wax helps."})
        assert effect(drafted) == "permit"
        for tool, arguments in (
            ("send_reply", {"reply": "1"}),
            ("refund", {"order": "1234", "amount": 1, "reason": "kindness"}),
            ("no_such_tool", {}),
        ):
            refused = await client.call_tool(tool, arguments)
            assert effect(refused) == "deny"
            assert "Nothing was done" in words(refused)
    assert rows(folder, "SELECT count(*) FROM reply WHERE state = 'sent'") == [(0,)]
    assert rows(folder, "SELECT count(*) FROM refund") == [(0,)]
    denials = refused_by(desk.records(task["id"]))
    assert len(denials) == 4
    assert "argument_out_of_bounds" in denials[0]
    assert all("outside_mandate" in policies for policies in denials[1:])


async def test_what_the_helpdesk_itself_refuses_is_not_taken_for_a_refusal_of_remit(desk: House):
    task = desk.open(TEMPLATE, AGENT)
    async with desk.client("helpdesk", AGENT, task["task_token"]) as client:
        result = await client.call_tool("draft_reply", {"ticket": "4988", "body": "Hello."})
    assert effect(result) == "permit"
    assert "ticket `4988` is closed" in words(result)


async def test_a_task_token_is_no_use_to_another_agent_nor_after_its_task(desk: House):
    task = desk.open(TEMPLATE, AGENT)
    stolen = await _try(desk, "other-agent", task["task_token"])
    assert stolen.startswith("refused")
    assert (await _try(desk, AGENT, task["task_token"])).startswith("did")
    desk.control.post("tasks", task["id"], "complete")
    assert (await _try(desk, AGENT, task["task_token"])).startswith("refused")


async def _try(desk: House, agent: str, token: str) -> str:
    """Call a tool; say whether it was done, however the refusal is told."""
    try:
        async with desk.client("helpdesk", agent, token) as client:
            result = await client.call_tool("get_customer", {"id": "88"})
    except Exception as error:  # noqa: BLE001 - the SDK tells a refused connection in many ways
        return f"refused: {error!r}"
    return f"did: {words(result)}" if effect(result) == "permit" else f"refused: {words(result)}"


def test_the_support_agent_drafts_is_refused_three_ways_and_goes_on(desk: House, folder: Path):
    before = rows(folder, "SELECT count(*) FROM reply WHERE state = 'draft'")[0][0]
    task = desk.open(TEMPLATE, AGENT)
    done = desk.as_agent(
        AGENT,
        *(sys.executable, EXAMPLES / "agents" / "support_agent.py"),
        env={"REMIT_TASK": task["task_token"]},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["tool"], line["effect"]) for line in lines] == [
        ("helpdesk/get_customer", "permit"),
        ("helpdesk/list_tickets", "permit"),
        ("helpdesk/draft_reply", "permit"),
        ("helpdesk/send_reply", "deny"),
        ("helpdesk/refund", "deny"),
        ("helpdesk/get_customer", "deny"),
        ("helpdesk/draft_reply", "permit"),
        ("helpdesk/draft_reply", "permit"),
        ("helpdesk/draft_reply", "deny"),
    ]
    assert {line["agent"] for line in lines} == {AGENT}
    assert all((line["reason"] is None) == (line["effect"] == "permit") for line in lines)
    denials = refused_by(desk.records(task["id"]))
    assert [policies[0] for policies in denials[2:]] == ["argument_out_of_bounds", "budget_spent"]
    assert rows(folder, "SELECT count(*) FROM reply WHERE state = 'draft'") == [(before + 3,)]
