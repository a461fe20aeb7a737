"""What an agent sends, captured and sent again: refused, with a record, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from joserfc import jws
from processes import ROOT, free_port

from remit.app.compose import House
from remit.app.config import load
from remit.app.packing import export
from remit.app.serve import serving
from remit.gateway.bridge import bridge
from remit.gateway.scan import scan
from remit.model.record import Record
from remit.model.subject import Environment
from remit.model.task import OWN_KEY
from remit.proof.dpop import ProofKey
from remit.proof.verify import verify_pack
from remit.tasks.request import TaskRequest

BARE = ROOT / "tests" / "rooms" / "gateway" / "bare_server.py"
VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
CONFIG = """\
[authority]
state = "s"
listen = "127.0.0.1:{port}"
{more}
[upstream.up]
command = {command}
[upstream.other]
command = {command}
[policy]
templates = "templates"
"""
TEMPLATE = """\
purpose = "Echo"
[[capability]]
tool = "up/echo"
args = { text = { type = "string" } }
[[capability]]
tool = "other/echo"
args = { text = { type = "string" } }
"""


def claims(token: str) -> dict[str, Any]:
    """Return what a JWT says."""
    return dict(json.loads(jws.extract_compact(token.encode()).payload))


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One request as it went over the wire: what an eavesdropper has."""

    method: str
    url: str
    headers: dict[str, str]
    body: Any = None


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    challenge: str

    @property
    def said(self) -> str:
        """What a tool call answered."""
        assert self.status == 200, self.body
        return str(self.body["result"]["content"][0]["text"])

    @property
    def refused(self) -> str:
        """Why a tool call was refused, in the result's words."""
        assert self.body["result"]["isError"] is True
        return self.said


@dataclass
class Up:
    house: House
    session: aiohttp.ClientSession
    key: ProofKey

    @property
    def url(self) -> str:
        return self.house.loaded.url

    def svid(self, key: ProofKey | None = None, name: str = "echoer") -> str:
        agent = self.house.authority.registry.get(name)
        assert agent is not None
        extra = None if key is None else {"cnf": {"jkt": key.thumbprint}}
        return self.house.trust_domain.issue_jwt_svid(agent.spiffe_id, ["remit"], extra=extra)

    async def send(self, sent: Sent) -> Answer:
        async with self.session.request(
            sent.method, sent.url, json=sent.body, headers=sent.headers
        ) as got:
            text = await got.text()
            data = [line[5:] for line in text.splitlines() if line.startswith("data:")]
            return Answer(
                got.status,
                json.loads(data[-1] if data else text),
                got.headers.get("www-authenticate", ""),
            )

    def request(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        key: ProofKey | None = None,
        svid: str | None = None,
        **headers: str,
    ) -> Sent:
        url, token = f"{self.url}{path}", svid or self.svid()
        given = {"Authorization": f"{'DPoP' if key else 'Bearer'} {token}", **headers}
        if key is not None:
            given["DPoP"] = key.prove(method, url, token)
        return Sent(method=method, url=url, headers=given, body=body)

    def call(self, text: str = "hi", *, tool: str = "echo", at: str = "up", **more: Any) -> Sent:
        arguments = {"text": text} if tool == "echo" else more.pop("arguments")
        if "task" in more:
            more["Remit-Task"] = more.pop("task")
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments, "_meta": META},
        }
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        }
        return self.request(f"/mcp/{at}", body, **headers, **more)

    async def opened(self, **more: Any) -> tuple[str, str]:
        """Open a task as the agent does, over HTTP; return its id and its token."""
        answer = await self.send(self.request("/tasks", {"template": "echo"}, **more))
        assert answer.status == 201, answer.body
        return answer.body["id"], answer.body["task_token"]

    async def handed_over(self) -> tuple[str, str]:
        """Open a task as its owner; return its id and its token."""
        agent = self.house.authority.registry.get("echoer")
        assert agent is not None
        opened = await self.house.authority.tasks.open(
            TaskRequest(template="echo"), agent=agent, opened_by="user:ada"
        )
        return opened.task.id, opened.token

    async def recorded(self, *kinds: str) -> list[Record]:
        records = await self.house.authority.evidence.records(limit=500)
        return [record for _, record in records if record.kind in kinds]

    async def acted(self) -> int:
        return len(await self.recorded("call.succeeded"))


@contextlib.asynccontextmanager
async def standing(folder: Path, more: str = "") -> AsyncIterator[Up]:
    (folder / "templates").mkdir(exist_ok=True)
    (folder / "templates" / "echo.toml").write_text(TEMPLATE)
    command = json.dumps([sys.executable, "-S", "-E", str(BARE)])
    config = CONFIG.format(port=free_port(), command=command, more=more)
    (folder / "remit.toml").write_text(config)
    async with (
        serving(load(folder / "remit.toml")) as house,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
    ):
        for name, gateway in (("echoer", ("echo",)), ("rival", ())):
            await house.authority.registry.register(
                name,
                by="user:ada",
                owner="user:ada",
                purpose="echo",
                environment=Environment.DEV,
                autonomy=2,
                templates=("echo",),
                gateway_templates=gateway,
            )
        for upstream in ("up", "other"):
            await scan(house.gateway, upstream)
        yield Up(house, session, ProofKey.generate())


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    async with standing(tmp_path) as made:
        yield made


async def test_a_captured_call_sent_again_is_refused_and_recorded(up: Up):
    task, token = await up.opened(key=up.key)
    captured = up.call(key=up.key, task=token)
    first = await up.send(captured)
    assert first.said == "hi"
    for _ in range(2):
        again = await up.send(captured)
        assert again.status == 401
        assert again.challenge.startswith('DPoP error="invalid_dpop_proof", algs="')
        assert "used before" in again.body["error"]["message"]
    refused = await up.recorded("call.unidentified")
    assert [record.body["code"] for record in refused] == ["invalid_dpop_proof"] * 2
    assert await up.acted() == 1
    (identified,) = await up.recorded("call.identified")
    assert identified.body["proof"] == "dpop"
    assert identified.body["key"] == up.key.thumbprint
    assert identified.task == task


async def test_one_request_sent_many_times_at_once_acts_once(up: Up):
    _, token = await up.opened(key=up.key)
    captured = up.call(key=up.key, task=token)
    answers = await asyncio.gather(*(up.send(captured) for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [200, *[401] * 11]
    assert await up.acted() == 1


async def test_a_captured_identity_and_task_token_are_no_use_without_the_key(up: Up):
    task, token = await up.opened(key=up.key)
    captured = up.call(key=up.key, task=token)
    bare = {k: v for k, v in captured.headers.items() if k != "DPoP"}
    svid = bare["Authorization"].split()[1]
    # Under the scheme that promises a proof, and as a bearer token.
    assert (await up.send(replace(captured, headers=bare))).status == 401
    bare["Authorization"] = f"Bearer {svid}"
    assert "bound to a key" in (await up.send(replace(captured, headers=bare))).refused
    thief = ProofKey.generate()
    stolen = await up.send(up.call(key=thief, svid=svid, task=token))
    assert "bound to another key" in stolen.refused
    assert await up.acted() == 0
    refused = await up.recorded("call.unadmitted")
    assert len(refused) == 2
    assert {record.task for record in refused} == {None}
    assert len(await up.recorded("call.unidentified")) == 1
    # The key itself goes on.
    assert (await up.send(up.call(key=up.key, task=token))).said == "hi"
    assert task


async def test_a_proof_is_no_use_at_another_address_or_with_another_method(up: Up):
    task, token = await up.opened(key=up.key)
    captured = up.call(key=up.key, task=token)
    for changes in (
        {"url": f"{up.url}/mcp/other"},
        {"url": f"{up.url}/tasks", "body": {"template": "echo"}},
        {"url": f"{up.url}/tasks/{task}/complete", "body": None},
        {"method": "DELETE"},
        {"method": "GET", "url": f"{up.url}/tasks/{task}", "body": None},
    ):
        answer = await up.send(replace(captured, **changes))
        assert answer.status == 401, changes
        assert answer.challenge.startswith("DPoP error="), changes
    assert len(await up.recorded("call.unidentified")) == 5
    assert (await up.send(captured)).status == 200


async def test_the_address_is_the_configured_one_whatever_the_host_header_says(up: Up):
    _, token = await up.opened(key=up.key)
    other = f"http://localhost:{up.house.loaded.port}"
    sent = up.call(key=up.key, task=token)
    moved = replace(sent, url=f"{other}/mcp/up")
    assert (await up.send(moved)).status == 200
    svid = up.svid()
    headers = {**sent.headers, "Authorization": f"DPoP {svid}"}
    headers["DPoP"] = up.key.prove("POST", f"{other}/mcp/up", svid)
    answer = await up.send(replace(moved, headers=headers))
    assert answer.status == 401
    assert f"{up.url}/mcp/up" in answer.body["error"]["message"]


async def test_a_proof_for_one_token_does_not_serve_another(up: Up):
    _, token = await up.opened(key=up.key)
    sent = up.call(key=up.key, task=token)
    fresh = up.house.trust_domain.issue_jwt_svid(
        up.house.authority.registry.get("echoer").spiffe_id,  # type: ignore[union-attr]
        ["remit"],
        seconds=17,
    )
    headers = {**sent.headers, "Authorization": f"DPoP {fresh}"}
    assert (await up.send(replace(sent, headers=headers))).status == 401


async def test_a_task_token_names_the_key_it_was_opened_with(up: Up):
    _, token = await up.opened(key=up.key)
    assert claims(token)["cnf"] == {"jkt": up.key.thumbprint}
    _, plain = await up.opened()
    assert "cnf" not in claims(plain)
    named = {"template": "echo", "confirmation": {"jkt": up.key.thumbprint}}
    answer = await up.send(up.request("/tasks", named))
    assert claims(answer.body["task_token"])["cnf"] == {"jkt": up.key.thumbprint}
    assert "bound to a key" in (await up.send(up.call(task=answer.body["task_token"]))).refused
    other = await up.send(up.request("/tasks", named, key=ProofKey.generate()))
    assert other.status == 400
    assert "names another key" in other.body["error"]["message"]


async def test_the_control_routes_of_a_bound_task_want_its_key(up: Up):
    task, _ = await up.opened(key=up.key)
    show = f"/tasks/{task}"
    seen = up.request(show, method="GET", key=up.key)
    assert (await up.send(seen)).body["key"] == up.key.thumbprint
    assert (await up.send(seen)).status == 401
    for path, method in ((show, "GET"), (f"{show}/complete", "POST"), (f"{show}/cancel", "POST")):
        for key in (None, ProofKey.generate()):
            answer = await up.send(up.request(path, method=method, key=key))
            assert answer.status == 403, (path, key)
            assert answer.body["error"]["code"] == "no_mandate"
    assert len(await up.recorded("call.unadmitted")) == 6
    listed = await up.send(up.request("/tasks", method="GET"))
    assert listed.body["items"] == []
    ended = await up.send(up.request(f"{show}/complete", key=up.key))
    assert ended.body["state"] == "completed"


async def test_a_task_that_was_handed_over_belongs_to_the_first_key(up: Up):
    task, token = await up.handed_over()
    assert (await up.send(up.call(task=token))).said == "hi"
    assert (await up.send(up.call(key=up.key, task=token))).said == "hi"
    assert "bound to a key" in (await up.send(up.call(task=token))).refused
    stolen = await up.send(up.call(key=ProofKey.generate(), task=token))
    assert "bound to another key" in stolen.refused
    (bound,) = await up.recorded("task.bound")
    assert (bound.task, bound.body["key"]) == (task, up.key.thumbprint)
    closed = await up.send(up.request(f"/tasks/{task}/complete", key=up.key))
    assert closed.status == 200
    verdict = verify_pack(await export(up.house, task))
    assert verdict.sealed
    assert verdict.calls == {"succeeded": 2}


async def test_the_key_of_another_workload_binds_and_opens_nothing(up: Up):
    _, token = await up.handed_over()
    rival = up.svid(name="rival")
    answer = await up.send(up.call(key=up.key, svid=rival, task=token))
    assert "another workload" in answer.refused
    assert await up.recorded("task.bound") == []


async def begin(up: Up, key: ProofKey | None, svid: str | None = None) -> Answer:
    arguments = {"template": "echo", "purpose": "to echo"}
    return await up.send(up.call(tool="remit_begin_task", arguments=arguments, key=key, svid=svid))


async def test_a_task_begun_with_a_proof_is_not_found_by_the_identity_alone(up: Up):
    begun = await begin(up, up.key)
    task = begun.body["result"]["structuredContent"]["task"]
    assert (await up.house.authority.tasks.get(task)).key == up.key.thumbprint
    assert (await up.send(up.call(key=up.key))).said == "hi"
    svid = up.svid()
    assert "bound to a key" in (await up.send(up.call(svid=svid))).refused
    assert (
        "bound to another" in (await up.send(up.call(svid=svid, key=ProofKey.generate()))).refused
    )
    for tool in ("remit_task_status", "remit_complete_task"):
        refused = await up.send(up.call(tool=tool, arguments={}, svid=svid))
        assert "bound to a key" in refused.refused
    assert len(await up.recorded("call.unadmitted")) == 4
    assert await up.acted() == 1


async def test_processes_with_bound_identities_share_their_task_and_nobody_else_does(up: Up):
    first, second = up.key, ProofKey.generate()
    begun = await begin(up, first, up.svid(first))
    task = begun.body["result"]["structuredContent"]["task"]
    assert (await up.house.authority.tasks.get(task)).key == OWN_KEY
    for key, at in ((first, "up"), (second, "other")):
        answer = await up.send(up.call(at=at, key=key, svid=up.svid(key)))
        assert answer.said == "hi"
    # A bearer identity does not reach it, with whatever key; nor a bound one with another key.
    assert "bound to a key" in (await up.send(up.call())).refused
    assert "bound to another" in (await up.send(up.call(key=first))).refused
    assert (await up.send(up.call(key=second, svid=up.svid(first)))).status == 401


async def test_where_proofs_are_required_nothing_is_done_without(tmp_path: Path):
    async with standing(tmp_path, 'proof_of_possession = "required"') as up:
        answer = await up.send(up.request("/tasks", {"template": "echo"}))
        assert answer.status == 403
        assert "only with a proof" in answer.body["error"]["message"]
        assert "only with a proof" in (await begin(up, None)).refused
        task, token = await up.handed_over()
        assert "wants a proof" in (await up.send(up.call(task=token))).refused
        assert (await up.send(up.request(f"/tasks/{task}", method="GET"))).status == 403
        assert (await up.send(up.call(key=up.key, task=token))).said == "hi"
        await up.opened(key=up.key)
        assert len(await up.recorded("call.unadmitted")) == 4


async def test_the_bridge_proves_every_request(up: Up):
    _, token = await up.handed_over()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    reader = asyncio.StreamReader()

    async def svid() -> str:
        return up.svid(up.key)

    running = asyncio.create_task(
        bridge(
            f"{up.url}/mcp/up",
            token=svid,
            task_token=token,
            key=up.key,
            reader=reader,
            write=lambda line: said.put_nowait(json.loads(line)),
        )
    )
    for number in range(3):
        message = {
            "jsonrpc": "2.0",
            "id": number,
            "method": "tools/call",
            "params": {"name": "echo", "arguments": {"text": str(number)}, "_meta": META},
        }
        reader.feed_data(json.dumps(message).encode() + b"\n")
        async with asyncio.timeout(20):
            assert (await said.get())["result"]["content"][0]["text"] == str(number)
    reader.feed_eof()
    await running
    identified = await up.recorded("call.identified")
    assert [record.body["proof"] for record in identified] == ["dpop"] * 3
    (bound,) = await up.recorded("task.bound")
    assert bound.body["key"] == OWN_KEY


async def test_no_record_holds_a_proof_or_a_token(up: Up):
    task, token = await up.opened(key=up.key)
    captured = up.call(key=up.key, task=token)
    await up.send(captured)
    await up.send(captured)
    records = await up.house.authority.evidence.records(limit=500)
    text = json.dumps([[record.body, record.kind] for _, record in records])
    secrets = (captured.headers["DPoP"], captured.headers["Authorization"].split()[1], token)
    for secret in secrets:
        assert secret not in text
        assert secret.split(".")[2] not in text
    assert task in {record.task for _, record in records}


async def test_a_captured_request_is_refused_after_a_restart_as_well(tmp_path: Path):
    async with standing(tmp_path) as up:
        task, token = await up.opened(key=up.key)
        captured = up.call(key=up.key, task=token)
        unsent = up.call(key=up.key, task=token)
        assert (await up.send(captured)).said == "hi"
    async with (
        serving(load(tmp_path / "remit.toml")) as house,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
    ):
        again = Up(house, session, up.key)
        # What it took before is forgotten, so whatever could be from then is refused.
        for sent in (captured, unsent):
            answer = await again.send(sent)
            assert answer.status == 401
            assert "before remit was started" in answer.body["error"]["message"]
        assert (await house.authority.tasks.get(task)).key == up.key.thumbprint
        assert "bound to a key" in (await again.send(again.call(task=token))).refused
        assert await again.acted() == 1
