"""A whole Remit in front of a real PostgreSQL: one statement a call, under a role of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from house import House, effect, house, words
from mcp_types import CallToolResult
from postgres import Server, postgres_server
from postgres_crm import ADMIN, ADMIN_PASSWORD, Seat, lay

pytestmark = pytest.mark.real

UPSTREAM = """\
[upstream.crm]
environment = "dev"
[upstream.crm.sql]
default_schema = "crm"
max_rows = 3
[upstream.crm.sql.tables]
"crm.customer" = ["id", "name", "card"]
"crm.invoice" = ["id", "customer", "cents"]
[upstream.crm.credential]
broker = "crm-db"
scope = "{scope}"
[upstream.crm.credential.grant]
read_only = false
tables = [
  {{ schema = "crm", table = "customer", privileges = ["select"] }},
  {{ schema = "crm", table = "invoice", privileges = ["select", "insert", "update"] }},
]
sequences = [{{ schema = "crm", sequence = "invoice_id_seq" }}]
[broker.crm-db]
kind = "postgres"
host = "127.0.0.1"
port = {port}
database = "crm"
user = "{user}"
password_file = "admin-password"
"""
TEMPLATE = """\
purpose = "Answer questions about customers"
[[capability]]
tool = "crm/query"
args = { sql = { type = "string" }, parameters = { type = "array" }, statement = { const = "select" }, tables = { items = { enum = ["crm.customer", "crm.invoice"] } }, reads = { items = { not = { const = "crm.customer.card" } } }, writes = { maxItems = 0 } }
[[capability]]
tool = "crm/execute"
args = { sql = { type = "string" }, parameters = { type = "array" }, statement = { enum = ["insert", "update"] }, tables = { items = { const = "crm.invoice" } }, reads = true, writes = { items = { pattern = "^crm[.]invoice[.]" } } }
"""


@dataclass
class Desk:
    """The running Remit, the database's superuser, and one open task."""

    house: House
    seat: Seat
    task: dict[str, Any]

    async def call(self, tool: str, sql: str, *parameters: Any, **more: Any) -> CallToolResult:
        arguments = {"sql": sql, **({"parameters": list(parameters)} if parameters else {}), **more}
        async with self.house.client("crm", "clerk", self.task["task_token"]) as client:
            result = await client.call_tool(tool, arguments)
        assert isinstance(result, CallToolResult)
        return result

    def kinds(self) -> list[str]:
        return [record["kind"] for record in self.house.records(self.task["id"])]


@pytest.fixture(params=["call", "task"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "clerk.toml").write_text(TEMPLATE)
    (tmp_path / "admin-password").write_text(ADMIN_PASSWORD)
    (tmp_path / "admin-password").chmod(0o600)
    with postgres_server() as server:
        lay(server)
        upstream = UPSTREAM.format(port=server.port, user=ADMIN, scope=request.param)
        with house(tmp_path, upstream, tmp_path / "templates") as running:
            running.register("clerk", "clerk")
            running.control.post("catalog", "scan", body={"upstream": "crm"})
            task = running.open("clerk", "clerk")
            yield Desk(running, Seat(server), task)


async def test_statements_are_read_decided_run_and_told_by_their_lineage(desk: Desk):
    asked = await desk.call("query", "select name from customer where id = $1", 1)
    assert not asked.is_error, words(asked)
    assert json.loads(words(asked)) == {
        "columns": ["name"],
        "rows": [["Ada"]],
        "row_count": 1,
        "truncated": False,
    }

    # A column that the mandate leaves out, however it is reached: denied, and nothing runs.
    for statement in (
        "select * from customer",
        "select name from customer where card like '4%'",
        "select (select max(card) from customer)",
        "with x as (select card as name from customer) select name from x",
    ):
        denied = await desk.call("query", statement)
        assert effect(denied) == "deny", (statement, words(denied))
        assert "4111" not in words(denied)

    # What cannot be read is refused with words that help, and leaves its record.
    for statement in ("select pg_read_file('/etc/passwd')", "select 1; drop table crm.customer",
                      "copy customer to program 'id'", "select c from customer c"):  # fmt: skip
        refused = await desk.call("query", statement)
        assert refused.is_error, statement
        last = desk.house.records(desk.task["id"])[-1]
        assert last["kind"] == "call.failed", statement
        assert last["call"]
        assert last["body"]["code"] == "invalid_input"
        assert last["body"]["reason"] in words(refused)
    shown = desk.house.run("evidence", "show", desk.task["id"], "--config", desk.house.config)
    assert "pg_read_file" in shown.stdout

    # The lineage is ours to tell.
    lied = await desk.call("query", "select card from customer", tables=[], reads=[])
    assert lied.is_error

    made = await desk.call(
        "execute", "insert into invoice (customer, cents) values ($1, $2) returning id", 1, 250
    )
    assert not made.is_error, words(made)
    assert desk.seat.ask("SELECT customer, cents FROM crm.invoice") == [(1, 250)]
    denied = await desk.call("execute", "update customer set name = 'x'")
    assert effect(denied) == "deny"
    wrong_tool = await desk.call("query", "insert into invoice (cents) values (1)")
    assert wrong_tool.is_error
    assert "execute" in words(wrong_tool)

    # The database has the last word, and its refusal changes nothing.
    failed = await desk.call("execute", "insert into invoice (customer, cents) values ($1, 1)", "x")
    assert failed.is_error
    assert "22P02" in words(failed)
    assert desk.seat.ask("SELECT count(*) FROM crm.invoice") == [(1,)]

    desk.seat.ask("INSERT INTO crm.invoice (cents) SELECT generate_series(1, 9)")
    many = json.loads(words(await desk.call("query", "select cents from invoice")))
    assert (many["row_count"], many["truncated"]) == (3, True)

    desk.house.control.post("tasks", desk.task["id"], "complete", body={})
    assert desk.seat.roles(_installation(desk)) == set()
    records = desk.house.records(desk.task["id"])
    handles = {r["body"]["handle"] for r in records if r["kind"] == "lease.settled"}
    assert handles
    assert all(r["body"]["confirmed"] for r in records if r["kind"] == "lease.settled")
    audited = desk.house.run("evidence", "audit", "--config", desk.house.config)
    assert audited.returncode == 0, audited.stdout + audited.stderr


@pytest.mark.parametrize("desk", ["task"], indirect=True)
async def test_a_database_that_dies_is_told_in_words_and_recorded_as_what_is_known(desk: Desk):
    server = desk.seat.server
    desk.seat.ask(SLOW_COMMIT)
    assert not (await desk.call("query", "select name from customer")).is_error

    # While a change waits for another's lock: it was never committed, so nothing was changed.
    told = await _killed_during(desk, server, "lock table crm.invoice", 250)
    assert "went away" in told
    assert "nothing was changed" in told
    _says_no_driver(told)
    last = desk.house.records(desk.task["id"])[-1]
    assert (last["kind"], last["body"]["code"]) == ("call.failed", "upstream")
    assert last["body"]["reason"] in told

    # While it is down, under a lease that is alive: nothing ran.
    told = words(await desk.call("query", "select name from customer"))
    assert "`crm`" in told
    assert "nothing was run" in told
    _says_no_driver(told)
    assert desk.kinds()[-1] == "call.failed"

    # While it commits: nobody knows.
    server.start()
    told = await _killed_during(desk, server, "select pg_advisory_lock(7)", 251)
    assert "whether the call was carried out is not known" in told
    _says_no_driver(told)
    last = desk.house.records(desk.task["id"])[-1]
    assert last["kind"] == "call.unknown"
    assert "commit" in last["body"]["detail"]

    server.start()
    assert desk.seat.ask("SELECT 1 FROM crm.invoice WHERE cents = 250") == []
    again = await desk.call("query", "select name from customer where id = $1", 1)
    assert not again.is_error, words(again)


SLOW_COMMIT = """
CREATE FUNCTION crm.waits() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
  'BEGIN IF NEW.cents = 251 THEN PERFORM pg_advisory_xact_lock(7); END IF; RETURN NEW; END';
CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON crm.invoice DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION crm.waits()
"""


async def _killed_during(desk: Desk, server: Server, hold: str, cents: int) -> str:
    """Have an insert wait for what ``hold`` takes, crash the server, and return what was told."""
    statement = "insert into invoice (customer, cents) values (1, $1)"
    with contextlib.closing(psycopg.connect(server.dsn(database="crm"))) as holding:
        holding.execute(hold.encode())
        calling = asyncio.create_task(desk.call("execute", statement, cents))
        async with asyncio.timeout(20):
            while not desk.seat.ask(WAITING):
                assert not calling.done(), words(calling.result())
                await asyncio.sleep(0.1)
        await asyncio.to_thread(server.stop)
        result = await calling
    assert result.is_error
    return words(result)


WAITING = """
SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND starts_with(usename, 'remit-')
"""


def _says_no_driver(told: str) -> None:
    """Check that what an agent reads names nothing of the program's own."""
    assert "Error" not in told
    assert "psycopg" not in told
    assert "Shutdown" not in told


def _installation(desk: Desk) -> str:
    """Return the prefix of the handles, from the first lease of the chain."""
    records = desk.house.records(desk.task["id"])
    handle: str = next(r["body"]["handle"] for r in records if r["kind"] == "lease.reserved")
    return handle.rpartition("-")[0]
