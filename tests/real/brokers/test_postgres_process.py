"""A command that reads its credential from its environment, with a role minted for its task."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import Server, postgres_server
from postgres_crm import INSTALLATION, Seat, broker, lay
from world import World, standing

from remit.closing import close_task
from remit.credentials.leases import Leases
from remit.credentials.port import Binding
from remit.credentials.sealing import KeySeal
from remit.gateway.flight import Flight
from remit.gateway.injection import Injection
from remit.gateway.options import UpstreamOptions
from remit.gateway.reply import Reply
from remit.gateway.stdio_upstream import StdioUpstream
from remit.gateway.upstream import Outgoing
from remit.gateway.wire import Message
from remit.model.lease import LeaseScope
from remit.model.task import TaskState
from remit.storage.sqlite.leases import SqliteLeases

pytestmark = pytest.mark.real

GRANT = {"tables": [{"schema": "crm", "table": "customer", "columns": ["id", "name"]}]}
SERVER = Path(__file__).with_name("querying_server.py")
INJECT = Injection(
    environment={
        "PGHOST": "{host}",
        "PGPORT": "{port}",
        "PGDATABASE": "{database}",
        "PGUSER": "{username}",
        "PGPASSWORD": "{password}",
    }
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as running:
        lay(running)
        yield running


def _runs(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


async def _nowhere(_: Any) -> None:
    pass


async def _said(world: World, upstream: StdioUpstream) -> list[str]:
    """Make a call of the task; return the process's id and what it read."""
    params = {"name": "read", "arguments": {"id": "88"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    message = Message(json.dumps(body).encode(), "request", "tools/call", 1, params, True)
    house = world.house.gateway.house
    outgoing = Outgoing(method="POST", headers=[], message=message, owner="agent")
    flight = Flight(
        outgoing,
        upstream,
        Reply(_nowhere),
        house.pending,
        house.guard,
        in_flight=house.in_flight,
    )
    outcome = await world.perform(act=flight.act)
    text: str = json.loads(outcome.result or b"{}")["result"]["content"][0]["text"]
    return text.split()


async def test_a_command_logs_in_as_the_role_of_its_task_and_is_gone_with_it(
    server: Server, tmp_path: Path
):
    seat = Seat(server)
    options = UpstreamOptions(
        name="desk", command=(sys.executable, str(SERVER)), env={"PGUSER": "no"}, inject=INJECT
    )
    upstream = StdioUpstream(options)
    async with standing(tmp_path) as world:
        made = broker(server, tmp_path)
        leases = Leases(
            bindings={
                "desk": Binding(name="crm-db", broker=made, scope=LeaseScope.TASK, grant=GRANT)
            },
            store=SqliteLeases(world.house.journal),
            recorder=world.authority.evidence,
            clock=world.authority.clock,
            seal=KeySeal(bytes(32)),
            installation=INSTALLATION,
        )
        leases.held_by(upstream.let_go)
        object.__setattr__(world.house.authority, "leases", leases)
        try:
            first, again = await _said(world, upstream), await _said(world, upstream)
            assert first == again, "one process for the task"
            assert first[1] == "Ada"
            assert _runs(first[0])
            [role] = seat.roles()
            [(user,)] = seat.ask("SELECT usename FROM pg_stat_activity WHERE usename = %s", role)
            assert user == role
            await close_task(world.opened.task.id, TaskState.COMPLETED, "user:ada", world.authority)
            assert seat.roles() == set()
            assert not _runs(first[0])
            assert leases.open_leases() == ()
        finally:
            await upstream.close()
            await made.close()
