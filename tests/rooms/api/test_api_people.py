"""Tasks over TCP, asked by people: without the role `operator`, for oneself alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client import generate_latest
from world import World, standing

from remit.api import approvals, tasks
from remit.api.callers import Callers
from remit.api.refusals import Refusals
from remit.api.unrouted import app_of
from remit.app.packing import export
from remit.closing import close_task
from remit.model.errors import ApprovalRequiredError, UnidentifiedError
from remit.model.record import Record
from remit.model.subject import Claim, Person, Subject
from remit.model.task import Task, TaskState
from remit.proof.verify import verify_pack

PEOPLE = {
    "ada": Person(id="user:ada", method="oidc", roles=("operator",)),
    "eve": Person(id="user:eve", method="oidc", roles=("manager",)),
    "bob": Person(id="user:bob", method="oidc", roles=()),
}


class People:
    """An identity desk that knows people by name."""

    async def receive(self, claim: Claim) -> tuple[Claim, Subject]:
        raise UnidentifiedError("no agent comes this way")

    async def receive_person(self, claim: Claim) -> Person:
        return PEOPLE[str(claim.bearer)]


class Clean:
    """Finds no credential in any request."""

    async def require_none(self, wanted: Mapping[str, Any]) -> None:
        """Refuse nothing."""

    def note(self, wanted: Mapping[str, Any], task: Task) -> None:
        """Note nothing."""


@dataclass
class Door:
    world: World
    client: httpx2.AsyncClient

    async def post(self, who: str, path: str, **body: str) -> tuple[int, dict[str, object]]:
        headers = {"Authorization": f"Bearer {who}"}
        answer = await self.client.post(path, json=body, headers=headers)
        return answer.status_code, answer.json()

    async def open(self, who: str, **more: str) -> tuple[int, dict[str, object]]:
        template = self.world.opened.task.mandate.template
        return await self.post(who, "/tasks", agent="helper", template=template, **more)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with standing(tmp_path) as world:
        callers = Callers(identity=People(), owner=lambda request: None, audience="remit")  # type: ignore[arg-type]
        app = app_of(
            [
                *tasks.routes(world.authority, callers, Clean()),
                *approvals.routes(world.authority.approvals, callers),
            ],
            Refusals(recorder=world.authority.evidence, count=world.house.metrics.refused),
        )
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://remit") as client:
            yield Door(world, client)


async def refusals(door: Door) -> list[Record]:
    found = await door.world.authority.evidence.records(limit=200)
    return [record for _, record in found if record.kind == "control.refused"]


async def test_who_is_known_and_may_not_leaves_a_record(door: Door):
    await door.open("eve", on_behalf_of="user:ceo")
    (refused,) = await refusals(door)
    assert refused.task is None
    assert (refused.body["by"], refused.body["code"]) == ("user:eve", "forbidden")
    assert (refused.body["method"], refused.body["path"]) == ("POST", "/tasks")


async def test_an_approver_who_may_not_decide_stands_in_the_task_s_chain(door: Door):
    with pytest.raises(ApprovalRequiredError) as asked:
        await door.world.perform(door.world.call("pay", amount=5))
    status, said = await door.post("bob", f"/approvals/{asked.value.approval.id}/approve")
    assert (status, said["error"]["code"]) == (403, "not_eligible")  # type: ignore[index]
    (refused,) = await refusals(door)
    assert refused.task == door.world.opened.task.id
    assert refused.body["by"] == "user:bob"
    assert "`manager`" in str(refused.body["reason"])
    await close_task(refused.task, TaskState.COMPLETED, "user:ada", door.world.authority)
    pack = await export(door.world.house, refused.task)
    assert verify_pack(pack, [door.world.authority.evidence.signer.vkey]).sealed


async def test_who_shows_no_token_is_counted_and_not_recorded(door: Door):
    before = door.world.authority.evidence.publisher.size
    for _ in range(3):
        assert (await door.client.get("/approvals")).status_code == 401
    await door.world.authority.evidence.barrier()
    assert door.world.authority.evidence.publisher.size == before
    assert await refusals(door) == []
    shown = generate_latest(door.world.house.metrics.registry).decode()
    assert 'remit_control_refusals_total{code="no_token"} 3.0' in shown


async def test_a_person_opens_a_task_in_their_own_name_only(door: Door):
    status, said = await door.open("eve", on_behalf_of="user:ceo")
    assert status == 403
    assert said["error"]["code"] == "forbidden"  # type: ignore[index]
    assert "`operator`" in said["error"]["message"]  # type: ignore[index]
    for more in ({}, {"on_behalf_of": "user:eve"}):
        status, said = await door.open("eve", **more)
        assert (status, said["on_behalf_of"]) == (201, "user:eve")


async def test_an_operator_opens_tasks_for_others(door: Door):
    status, said = await door.open("ada", on_behalf_of="user:ceo")
    assert (status, said["on_behalf_of"]) == (201, "user:ceo")
    status, said = await door.open("ada")
    assert (status, said["on_behalf_of"]) == (201, door.world.agent.owner)


@pytest.mark.parametrize("verb", ["complete", "cancel"])
async def test_a_person_ends_their_own_tasks_only(door: Door, verb: str):
    _, mine = await door.open("eve")
    status, said = await door.post("bob", f"/tasks/{mine['id']}/{verb}")
    assert status == 403
    assert said["error"]["code"] == "forbidden"  # type: ignore[index]
    assert door.world.authority.tasks.is_open(str(mine["id"]))
    assert (await door.post("eve", f"/tasks/{mine['id']}/{verb}"))[0] == 200
    _, for_bob = await door.open("ada", on_behalf_of="user:bob")
    assert (await door.post("bob", f"/tasks/{for_bob['id']}/{verb}"))[0] == 200
    _, theirs = await door.open("eve")
    assert (await door.post("ada", f"/tasks/{theirs['id']}/{verb}"))[0] == 200
