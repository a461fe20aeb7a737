"""Delegation over HTTP: by the token of the task, in its own agent's hands, with its key."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from processes import free_port

from remit.app.compose import House
from remit.app.config import load
from remit.app.serve import serving
from remit.proof.dpop import ProofKey

TEMPLATE = """\
purpose = "Read"
budget = { calls = 9 }
[[capability]]
tool = "desk/read"
[[capability]]
tool = "desk/list"
"""


@dataclass
class Up:
    house: House
    url: str
    session: aiohttp.ClientSession
    owner: aiohttp.ClientSession

    async def control(self, method: str, path: str, body: object = None) -> Any:
        async with self.owner.request(method, f"http://owner{path}", json=body) as answer:
            return await answer.json()

    async def register(self, name: str) -> None:
        body = {"name": name, "owner": "user:ada", "templates": ["read"]}
        await self.control("POST", "/agents", body)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        agent: str,
        task: str | None = None,
        key: ProofKey | None = None,
        body: object = None,
    ) -> tuple[int, Any]:
        found = self.house.authority.registry.get(agent)
        assert found is not None
        svid = self.house.trust_domain.issue_jwt_svid(found.spiffe_id, ["remit"])
        headers = {"Authorization": f"Bearer {svid}"}
        if task is not None:
            headers["Remit-Task"] = task
        if key is not None:
            headers["DPoP"] = key.prove(method, f"{self.url}{path}", svid)
        async with self.session.request(
            method, f"{self.url}{path}", json=body, headers=headers
        ) as answer:
            return answer.status, await answer.json()

    async def kinds(self) -> list[str]:
        records = await self.house.authority.evidence.records(limit=1000)
        return [record.kind for _, record in records]


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    port = free_port()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "read.toml").write_text(TEMPLATE)
    (tmp_path / "remit.toml").write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{port}"\n[policy]\ntemplates = "t"\n'
    )
    async with serving(load(tmp_path / "remit.toml")) as house:
        socket = aiohttp.UnixConnector(str(house.loaded.control_socket))
        async with (
            aiohttp.ClientSession() as session,
            aiohttp.ClientSession(connector=socket) as owner,
        ):
            made = Up(house, f"http://127.0.0.1:{port}", session, owner)
            for name in ("lead", "helper", "other"):
                await made.register(name)
            yield made


async def opened(up: Up, agent: str = "lead") -> Any:
    return await up.control("POST", "/tasks", {"agent": agent, "template": "read"})


PART = {"agent": "helper", "template": "read", "capability": [{"tool": "desk/read"}]}


async def test_an_agent_gives_a_part_of_its_task_to_another_by_its_token(up: Up):
    root = await opened(up)
    path = f"/tasks/{root['id']}/delegate"

    status, child = await up.ask("POST", path, agent="lead", task=root["task_token"], body=PART)

    assert status == 201, child
    assert child["parent"] == root["id"]
    assert child["delegated_by"] == root["workload"]
    assert child["on_behalf_of"] == root["on_behalf_of"]
    assert [each["target"] for each in child["capabilities"]] == ["desk/read"]
    shown = await up.control("GET", f"/tasks/{root['id']}")
    assert shown["parent"] is None
    (below,) = shown["children"]
    assert (below["id"], below["agent"], below["state"]) == (child["id"], "helper", "open")
    _, held = await up.ask("GET", f"/tasks/{child['id']}", agent="helper")
    assert held["id"] == child["id"]


async def test_a_token_in_the_wrong_hands_delegates_nothing_and_leaves_a_record(up: Up):
    mine, other = await opened(up), await opened(up, "other")
    path = f"/tasks/{mine['id']}/delegate"
    tries: list[tuple[str, str | None, str]] = [
        ("lead", None, path),
        ("other", mine["task_token"], path),
        ("other", other["task_token"], path),
        ("lead", mine["task_token"], f"/tasks/{other['id']}/delegate"),
        ("lead", mine["task_token"], "/tasks/task_of_nobody/delegate"),
        ("lead", mine["task_token"][:-4] + "AAAA", path),
    ]
    before = len(await up.kinds())
    for agent, token, where in tries:
        status, said = await up.ask("POST", where, agent=agent, task=token, body=PART)
        assert (status, said["error"]["code"]) == (403, "no_mandate"), said
    assert (await up.kinds())[before:] == ["call.unadmitted"] * len(tries)
    assert up.house.authority.tasks.open_count == 2


async def test_a_task_that_is_bound_to_a_key_is_delegated_with_a_proof_by_it(up: Up):
    key, other = ProofKey.generate(), ProofKey.generate()
    body = {"template": "read"}
    _, root = await up.ask("POST", "/tasks", agent="lead", key=key, body=body)
    path, token = f"/tasks/{root['id']}/delegate", root["task_token"]

    for wrong in (None, other):
        status, _ = await up.ask("POST", path, agent="lead", task=token, key=wrong, body=PART)
        assert status == 403
    status, child = await up.ask("POST", path, agent="lead", task=token, key=key, body=PART)
    assert status == 201
    assert child["key"] is None, "it is for the helper's own key"


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ({"agent": "lead"}, 403, "in the chain already"),
        ({"agent": "nobody"}, 404, "nobody"),
        ({"on_behalf_of": "user:the-boss"}, 403, "on behalf of"),
        ({"parent": "task_x"}, 400, "is not a key here"),
        ({"opened_by": "user:ada"}, 400, "is not a key here"),
        ({"capability": [{"tool": "desk/delete"}]}, 400, "does not allow"),
        ({"template": "nope"}, 403, "nope"),
    ],
)
async def test_what_cannot_be_delegated_is_refused_with_its_reason(
    up: Up, wrong: dict[str, Any], status: int, said: str
):
    root = await opened(up)
    answered, error = await up.ask(
        "POST",
        f"/tasks/{root['id']}/delegate",
        agent="lead",
        task=root["task_token"],
        body={**PART, **wrong},
    )
    assert answered == status, error
    assert said in error["error"]["message"]
    assert up.house.authority.tasks.open_count == 1


async def test_who_delegated_may_look_at_the_part_and_cancel_it_and_not_complete_it(up: Up):
    root = await opened(up)
    _, child = await up.ask(
        "POST",
        f"/tasks/{root['id']}/delegate",
        agent="lead",
        task=root["task_token"],
        body=PART,
    )
    path = f"/tasks/{child['id']}"

    assert (await up.ask("GET", path, agent="lead"))[0] == 200
    assert (await up.ask("GET", path, agent="other"))[0] == 404
    assert (await up.ask("POST", f"{path}/cancel", agent="other"))[0] == 404
    assert (await up.ask("GET", f"/tasks/{root['id']}", agent="helper"))[0] == 404
    assert (await up.ask("POST", f"{path}/complete", agent="lead"))[0] == 403
    status, ended = await up.ask("POST", f"{path}/cancel", agent="lead")
    assert (status, ended["state"], ended["ended_with"]) == (200, "cancelled", None)


async def test_the_end_of_a_task_shows_at_what_was_delegated_of_it(up: Up):
    root = await opened(up)
    child = await up.control("POST", f"/tasks/{root['id']}/delegate", PART)
    assert child["delegated_by"] == root["workload"]

    await up.control("POST", f"/tasks/{root['id']}/complete")

    shown = await up.control("GET", f"/tasks/{child['id']}")
    assert (shown["state"], shown["ended_with"]) == ("cancelled", root["id"])
    refused = await up.control("POST", f"/tasks/{root['id']}/delegate", PART)
    assert "completed" in refused["error"]["message"]
    listed = await up.control("GET", "/tasks")
    assert {each["id"]: each["parent"] for each in listed["items"]} == {
        root["id"]: None,
        child["id"]: root["id"],
    }


async def test_a_suspended_delegator_ends_what_it_delegated_and_not_its_own_task(up: Up):
    root = await opened(up)
    child = await up.control("POST", f"/tasks/{root['id']}/delegate", PART)
    await up.control("POST", "/agents/lead/suspend")
    await up.house.redeciding.close()

    shown = await up.control("GET", f"/tasks/{child['id']}")
    assert (shown["state"], shown["ended_with"]) == ("cancelled", root["id"])
    assert (await up.control("GET", f"/tasks/{root['id']}"))["state"] == "open"
    chain = await up.control("GET", f"/evidence/tasks/{child['id']}")
    assert [each["kind"] for each in chain["records"]] == [
        "task.opened",
        "task.cancelled",
        "task.sealed",
    ]
    assert json.dumps(chain["records"][1]["body"]["ended_with"]) == f'"{root["id"]}"'
