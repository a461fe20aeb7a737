"""Governed calls that read a real PostgreSQL with what was minted for their task, until it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Server, postgres_server
from postgres_crm import INSTALLATION, Seat, broker, lay, run
from world import World, standing

from remit.closing import close_task
from remit.credentials.leases import Leases
from remit.credentials.port import Binding
from remit.credentials.sealing import KeySeal
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.lease import Credential, LeaseScope
from remit.model.outcome import Ending, Outcome
from remit.model.task import TaskState
from remit.storage.sqlite.leases import SqliteLeases

pytestmark = pytest.mark.real

GRANT = {"tables": [{"schema": "crm", "table": "customer", "columns": ["id", "name"]}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as running:
        lay(running)
        yield running


async def test_a_task_reads_with_a_role_of_its_own_and_nobody_after_its_end(
    server: Server, tmp_path: Path
):
    seat, used = Seat(server), list[Credential]()

    async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        del decision
        assert credential is not None
        used.append(credential)
        [(name,)] = await run(credential.values, "SELECT name FROM crm.customer WHERE id = 1")
        return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=name.encode())

    async with standing(tmp_path) as world:
        made = broker(server, tmp_path)
        _bind(world, made)
        try:
            for _ in range(2):
                assert (await world.perform(act=act)).result == b"Ada"
            assert len({each.values["username"] for each in used}) == 1, "one role for the task"
            [role] = seat.roles()
            [(application,)] = await run(used[0].values, "SHOW application_name")
            assert world.opened.task.id in application
            await close_task(world.opened.task.id, TaskState.COMPLETED, "user:ada", world.authority)
            assert role not in seat.roles()
            with pytest.raises(psycopg.OperationalError):
                await run(used[0].values, "SELECT 1")
            kept = [record for _, record in await world.authority.evidence.records(limit=1000)]
            settled = [each.body for each in kept if each.kind == "lease.settled"]
            assert [(each["handle"], each["confirmed"]) for each in settled] == [(role, True)]
            assert used[0].values["password"] not in repr(kept)
        finally:
            await made.close()


def _bind(world: World, made: Any) -> None:
    """Give calls of ``desk`` a role for their task."""
    object.__setattr__(
        world.house.authority,
        "leases",
        Leases(
            bindings={
                "desk": Binding(name="crm-db", broker=made, scope=LeaseScope.TASK, grant=GRANT)
            },
            store=SqliteLeases(world.house.journal),
            recorder=world.authority.evidence,
            clock=world.authority.clock,
            seal=KeySeal(bytes(32)),
            installation=INSTALLATION,
        ),
    )
