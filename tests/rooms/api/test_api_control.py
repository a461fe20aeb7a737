"""The control API: the owner by the socket, everyone else by token, and no surprises in between."""

from __future__ import annotations

import asyncio
import json
import stat
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from processes import free_port

from remit.app.compose import House
from remit.app.config import load
from remit.app.serve import serving
from remit.cli.client import ControlClient, RefusedError
from remit.proof.dpop import ProofKey

TEMPLATE = 'purpose = "Read"\n[[capability]]\ntool = "desk/read"\nargs = { id = { const = "1" } }\n'


@dataclass
class Up:
    house: House
    port: int

    async def ask(self, method: str, *parts: str, body: object = None, **query: Any) -> Any:
        client = ControlClient(self.house.loaded.control_socket)
        data = await asyncio.to_thread(client.ask, method, parts, query=query or None, body=body)
        return json.loads(data)

    async def tcp(
        self,
        path: str,
        *,
        token: str | None = None,
        body: bytes | None = None,
        method: str = "GET",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        shown = {"Authorization": f"Bearer {token}"} if token else {}
        headers = {**shown, **(headers or {})}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers, method=method
        )

        def fetch() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        return await asyncio.to_thread(fetch)

    def svid(self, name: str) -> str:
        agent = self.house.authority.registry.get(name)
        assert agent is not None
        return self.house.trust_domain.issue_jwt_svid(agent.spiffe_id, ["remit"])


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    port = free_port()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "read.toml").write_text(TEMPLATE)
    (tmp_path / "remit.toml").write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{port}"\n[policy]\ntemplates = "t"\n'
    )
    async with serving(load(tmp_path / "remit.toml")) as house:
        yield Up(house, port)


async def register(up: Up, name: str = "reader") -> None:
    await up.ask("POST", "agents", body={"name": name, "owner": "user:ada", "templates": ["read"]})


async def test_the_control_socket_and_the_state_folder_are_the_owners_alone(up: Up):
    state = up.house.loaded.state
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "control.sock").stat().st_mode) == 0o600


async def test_over_tcp_a_control_route_wants_a_token(up: Up):
    for path in (
        *("/agents", "/tasks", "/templates", "/approvals", "/catalog", "/status", "/leases"),
        *("/evidence/audit", "/evidence/tasks/x", "/evidence/tasks/x/pack", "/decisions/x"),
    ):
        status, body = await up.tcp(path)
        assert status == 401, path
        assert json.loads(body)["error"]["code"] == "unidentified"


@pytest.mark.parametrize("path", ["x" * 60_000, "%C3" * 20_000], ids=["long", "longer once read"])
async def test_a_refusal_fits_its_record_however_long_the_path_is(up: Up, path: str):
    proof = ProofKey.generate().prove("GET", "http://remit.example/other", "junk")
    status, body = await up.tcp(f"/tasks/{path}", token="junk", headers={"DPoP": proof})
    assert status == 401, body[:200]
    assert json.loads(body)["error"]["code"] == "invalid_dpop_proof"
    assert len(body) < 2000
    records = [record for _, record in await up.house.authority.evidence.records(limit=100)]
    said = [r.body["reason"] for r in records if r.kind == "call.unidentified"]
    assert [len(str(each)) < 1000 for each in said] == [True]
    assert "is for another address" in str(said[0])


async def test_over_tcp_nobody_can_name_a_process(up: Up):
    body = b'{"agent": "a", "pid": 1, "start_time": 1}'
    status, _ = await up.tcp("/processes", body=body, method="POST")
    assert status == 401


async def test_an_agent_sees_its_own_tasks_and_nothing_else(up: Up):
    await register(up)
    await register(up, "other")
    mine = await up.ask("POST", "tasks", body={"agent": "reader", "template": "read"})
    theirs = await up.ask("POST", "tasks", body={"agent": "other", "template": "read"})
    token = up.svid("reader")
    status, body = await up.tcp("/tasks", token=token)
    assert status == 200
    assert [task["id"] for task in json.loads(body)["items"]] == [mine["id"]]
    assert (await up.tcp(f"/tasks/{theirs['id']}", token=token))[0] == 404
    closing = await up.tcp(f"/tasks/{theirs['id']}/complete", token=token, body=b"", method="POST")
    assert closing[0] == 404
    for path in ("/agents", "/approvals", "/catalog", f"/evidence/tasks/{mine['id']}"):
        assert (await up.tcp(path, token=token))[0] == 401, path


async def test_an_agent_opens_tasks_for_itself_and_its_owner_only(up: Up):
    await register(up)
    await register(up, "other")
    token = up.svid("reader")

    async def open_task(**wanted: str) -> int:
        body = json.dumps({"template": "read", **wanted}).encode()
        return (await up.tcp("/tasks", token=token, body=body, method="POST"))[0]

    assert await open_task() == 201
    assert await open_task(agent="other") == 403
    assert await open_task(on_behalf_of="user:the-boss") == 403
    assert await open_task(on_behalf_of="user:ada") == 201


async def test_a_malformed_body_is_refused_and_changes_nothing(up: Up):
    wrong: list[tuple[object, str]] = [
        ({"name": "x", "ownr": "a"}, "ownr"),
        ({"name": 3}, "name"),
        ({"name": "Bad Name", "owner": "a"}, "a-z 0-9"),
        ([], "object"),
    ]
    for body, said in wrong:
        with pytest.raises(RefusedError, match=said) as refused:
            await up.ask("POST", "agents", body=body)
        assert refused.value.answered == 400
    assert (await up.ask("GET", "agents"))["items"] == []


async def test_an_oversized_body_is_refused(up: Up):
    with pytest.raises(RefusedError, match="longer than"):
        await up.ask("POST", "agents", body={"name": "x", "purpose": "y" * 300_000})


async def test_tasks_come_in_pages(up: Up):
    await register(up)
    made = [
        (await up.ask("POST", "tasks", body={"agent": "reader", "template": "read"}))["id"]
        for _ in range(5)
    ]
    seen: list[str] = []
    after = None
    while True:
        page = await up.ask("GET", "tasks", limit=2, after=after)
        seen += [task["id"] for task in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == sorted(made, reverse=True)
    with pytest.raises(RefusedError, match="limit"):
        await up.ask("GET", "tasks", limit=0)


async def test_a_task_lives_and_ends_over_the_api(up: Up):
    await register(up)
    opened = await up.ask("POST", "tasks", body={"agent": "reader", "template": "read"})
    shown = await up.ask("GET", "tasks", opened["id"])
    assert shown["state"] == "open"
    assert "task_token" not in shown
    closed = await up.ask("POST", "tasks", opened["id"], "complete")
    assert closed["state"] == "completed"
    with pytest.raises(RefusedError, match="already"):
        await up.ask("POST", "tasks", opened["id"], "complete")
    chain = await up.ask("GET", "evidence", "tasks", opened["id"])
    assert chain["sealed"] is True
    assert opened["task_token"] not in json.dumps(chain)


async def test_keys_rotate_and_what_was_issued_before_stays_good(up: Up):
    await register(up)
    before = up.svid("reader")
    first = await up.ask("POST", "keys", "rotate")
    second = await up.ask("POST", "keys", "rotate")
    assert second["spiffe_sequence"] > first["spiffe_sequence"]
    assert (await up.tcp("/tasks", token=before))[0] == 200
    assert (await up.tcp("/tasks", token=up.svid("reader")))[0] == 200


async def test_the_probes_and_the_bundle_want_no_token_and_tell_no_secret(up: Up):
    for path in ("/healthz", "/readyz", "/metrics", "/.well-known/spiffe-bundle"):
        status, body = await up.tcp(path)
        assert status == 200, path
        assert b'"d"' not in body


async def test_the_log_serves_its_own_files_and_no_others(up: Up):
    for path in (
        "/log/../remit.db",
        "/log/%2e%2e/remit.db",
        "/log/..%2fkeys%2flog.key",
        "/log//etc/passwd",
        "/log/%2fetc%2fpasswd",
        "/log/tile/0/../../../remit.db",
        "/log/tile/99999/000",
        "/log/tile/0/000%00",
        "/log/checkpoint%0ax",
        "/log/",
    ):
        status, body = await up.tcp(path)
        assert status == 404, path
        assert b"SQLite" not in body
    assert (await up.tcp("/log/checkpoint"))[0] == 200
