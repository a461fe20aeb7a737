"""Tasks over TCP, asked by people: without the role `operator`, for oneself alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from world import World, standing

from remit.api import tasks
from remit.api.callers import Callers
from remit.model.errors import UnidentifiedError
from remit.model.subject import Claim, Person, Subject
from remit.model.task import Task

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
        app = Starlette(routes=tasks.routes(world.authority, callers, Clean()))
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://remit") as client:
            yield Door(world, client)


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
