"""Every secret that was minted in a run is looked for wherever somebody could read it: none is found."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from aiohttp import web
from processes import ROOT, free_port, remit

from remit.app import brokers
from remit.app.compose import House
from remit.app.config import load
from remit.app.serve import serving
from remit.cli.client import ControlClient, RefusedError
from remit.credentials.port import Order
from remit.model.lease import Credential
from remit.model.record import Step
from remit.testing.credentials import MemoryTarget

HERE = Path(__file__).parent
RUN_SECONDS = 120
CONFIG = """\
[authority]
state = "s"
trust_domain = "no-secret.test"
listen = "127.0.0.1:{port}"
[policy]
templates = "templates"
[upstream.box]
command = ["{python}", "-S", "-E", "{spilling}"]
[upstream.box.credential]
broker = "memory"
scope = "{scope}"
env = {{ PGPASSWORD = "{{token}}", DSN = "x://user:{{token}}@host" }}
[upstream.web]
url = "http://127.0.0.1:{web}/web"
[upstream.web.credential]
broker = "tokens"
scope = "{scope}"
header = {{ Authorization = "Bearer {{token}}" }}
[upstream.meta]
url = "http://127.0.0.1:{web}/meta"
[upstream.meta.credential]
broker = "old"
scope = "call"
grant = {{ key = "crm" }}
meta = {{ "com.example/key" = "{{key}}" }}
[service.api]
url = "http://127.0.0.1:{web}/api"
private = true
[[service.api.operation]]
name = "spill"
method = "POST"
path = "/spill"
body = "json"
[[service.api.operation]]
name = "flood"
method = "POST"
path = "/flood"
body = "json"
[service.api.credential]
broker = "tokens"
scope = "{scope}"
header = {{ Authorization = "Bearer {{token}}" }}
[broker.memory]
kind = "memory"
[broker.tokens]
kind = "jwt"
audience = "https://web.example"
introspected = true
[broker.old]
kind = "sealed"
"""
TOOLS = ("spill", "crash", "refuse", "stream")
TEMPLATE = 'purpose = "Pry"\nbudget = { calls = 100 }\n' + "".join(
    f'[[capability]]\ntool = "{upstream}/{tool}"\n'
    for upstream in ("box", "web", "meta")
    for tool in TOOLS
)
TEMPLATE += '[[capability]]\ntool = "api/spill"\n[[capability]]\ntool = "api/flood"\n'
CALLS = (
    "box/spill,box/crash,box/spill,web/spill,web/crash,web/refuse,web/stream,meta/spill,meta/stream"
)


class SpikyTarget(MemoryTarget):
    """Its secrets look different in every encoding."""

    async def issue(self, order: Order) -> Credential:
        minted = await super().issue(order)
        spiky = f'p"{secrets.token_urlsafe(12)}\\/+ %é{secrets.token_hex(6)}'
        return replace(minted, values={"token": spiky}, secrets=(spiky,))


def forms(secret: str) -> set[bytes]:
    """Return a secret as somebody may have written it down."""
    raw = secret.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    for text in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        found.add(text.encode())
    found |= {
        json.dumps(secret)[1:-1].encode(),
        json.dumps(secret, ensure_ascii=False)[1:-1].encode(),
    }
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw)
        inner = whole[(before * 8 + 5) // 6 : (len(raw) + before) * 8 // 6]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def found_in(places: Mapping[str, bytes], minted: set[str]) -> list[str]:
    return [
        f"{place}: ...{data[max(0, data.find(form) - 60) : data.find(form)]!r}"
        for place, data in places.items()
        for secret in minted
        for form in forms(secret)
        if form in data
    ]


@contextlib.asynccontextmanager
async def careless_services(heard: list[bytes]) -> AsyncIterator[int]:
    """Serve MCP that gives back whatever it was given: in results, errors, heads and events."""

    async def serve(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        message = json.loads(body)
        method, number = message.get("method"), message.get("id")
        if method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
            result: dict[str, Any] = {"tools": tools}
        elif method == "server/discover":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        elif method == "initialize":
            result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}
        else:
            heard.append(repr(dict(request.headers)).encode() + body)
            return await _act(request, message)
        result |= {"ttlMs": 0, "cacheScope": "public", "resultType": "complete"}
        return web.json_response({"jsonrpc": "2.0", "id": number, "result": result})

    async def api(request: web.Request) -> web.StreamResponse:
        heard.append(repr(dict(request.headers)).encode() + await request.read())
        return await _give_back(request)

    app = web.Application()
    app.router.add_post("/{name}", serve)
    app.router.add_post("/api/{name}", api)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    finally:
        await runner.cleanup()


async def _give_back(request: web.Request) -> web.StreamResponse:
    """Answer as an HTTP API does that says too much; at length, where it is asked to."""
    key = request.headers["Authorization"].removeprefix("Bearer ")
    words = [key, quote(key, safe=""), key.encode().hex(), base64.b64encode(key.encode()).decode()]
    if request.path.endswith("spill"):
        return web.json_response({key: words}, status=422, headers={"x-request-id": key})
    stream = web.StreamResponse(headers={"content-type": "text/plain"})
    await stream.prepare(request)
    for word in words * 3:
        cut = len(word) // 2
        for piece in ("x" * 100_000 + word[:cut], word[cut:]):
            await stream.write(piece.encode())
    return stream


async def _act(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    own = (message.get("params") or {}).get("_meta", {}).get("com.example/key", "")
    key = request.headers.get("Authorization", "").removeprefix("Bearer ") or own
    words = [key, quote(key, safe=""), key.encode().hex(), base64.b64encode(key.encode()).decode()]
    content = [{"type": "text", "text": word} for word in [*words, json.dumps(words)]]
    number, tool = message.get("id"), (message.get("params") or {}).get("name")
    result = {"content": content, "resultType": "complete", "structuredContent": {key: key}}
    answer = {"jsonrpc": "2.0", "id": number, "result": result}
    if tool == "crash" and request.transport is not None:
        request.transport.abort()
    if tool == "refuse":
        error = {"code": -32000, "message": f"`{key}` is wrong", "data": {"key": words}}
        return web.json_response({"jsonrpc": "2.0", "id": number, "error": error}, status=403)
    if tool == "stream":
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(request)
        noted = {"method": "notifications/message", "params": {"level": "info", "data": words}}
        for each in ({"jsonrpc": "2.0", **noted}, answer):
            await stream.write(f"data: {json.dumps(each)}\n\n".encode())
        return stream
    return web.json_response(answer, headers={"x-key": quote(key, safe="")})


@pytest.fixture
def brokers_with_memory(monkeypatch: pytest.MonkeyPatch) -> SpikyTarget:
    target, real = SpikyTarget(), brokers.load_broker

    def load_broker(name: str, table: Mapping[str, Any], surroundings: Any) -> Any:
        if table["kind"] == "memory":
            return target, Step(kind="plugin.loaded", body={"name": name})
        return real(name, table, surroundings)

    monkeypatch.setattr(brokers, "load_broker", load_broker)
    return target


def listen_in(house: House, minted: set[str]) -> None:
    """Learn every secret in the moment it is minted."""
    for broker in house.authority.leases.brokers.values():
        issue = broker.issue

        async def issuing(order: Order, issue: Any = issue) -> Credential:
            credential: Credential = await issue(order)
            minted.update(credential.secrets)
            return credential

        broker.issue = issuing  # type: ignore[method-assign]


def answers(control: ControlClient, task: str, leases: set[str]) -> dict[str, bytes]:
    """Return everything that the control API says."""
    asked: list[tuple[str, ...]] = [
        *((name,) for name in ("agents", "approvals", "catalog", "leases", "credentials")),
        *((name,) for name in ("status", "tasks", "templates", "healthz", "readyz", "metrics")),
        *(("evidence", "audit"), ("evidence", "tasks", task), ("evidence", "tasks", task, "pack")),
        *(("agents", "pry"), ("tasks", task), ("leases", "standing"), ("log", "checkpoint")),
        *(("leases", lease) for lease in leases),
        (".well-known", "spiffe-bundle"),
        ("oauth", "jwks"),
    ]
    said = {}
    for parts in asked:
        try:
            said["/".join(parts)] = control.raw(*parts)
        except RefusedError as error:
            said["/".join(parts)] = str(error).encode()
    for record in json.loads(said[f"evidence/tasks/{task}"])["records"]:
        if record["kind"] == "call.decided":
            decision = record["body"].get("decision") or record["body"].get("id")
            if isinstance(decision, str):
                said[f"decisions/{decision}"] = control.raw("decisions", decision)
    return said


@pytest.mark.parametrize("scope", ["call", "task"])
async def test_no_secret_that_was_minted_is_found_anywhere(
    tmp_path: Path,
    brokers_with_memory: SpikyTarget,
    capfd: pytest.CaptureFixture[str],
    scope: str,
):
    folder, port = tmp_path / "h", free_port()
    heard: list[bytes] = []
    minted: set[str] = set()
    places: dict[str, bytes] = {}
    async with careless_services(heard) as service:
        config = _configured(folder, port=port, web=service, scope=scope)
        async with serving(load(config)) as house:
            listen_in(house, minted)
            sealed = f"sk-{secrets.token_urlsafe(24)}"
            minted.add(sealed)
            await house.sealed.seal("crm", sealed, "user:ada")
            control = ControlClient(house.loaded.control_socket)
            asked: Any = await asyncio.to_thread(_opened, control)
            task = asked["id"]
            leases = await _called(house, config, asked, tmp_path / "agent.json", places)
            await asyncio.to_thread(control.post, "tasks", task, "complete")
            said = await asyncio.to_thread(answers, control, task, leases)
            places |= {f"answer {name}": data for name, data in said.items()}
            places |= {f"running {path}": data for path, data in _files(folder).items()}
        places |= {f"stopped {path}": data for path, data in _files(folder).items()}
    captured = capfd.readouterr()
    places |= {"log": captured.out.encode(), "errors": captured.err.encode()}
    kept = (tmp_path / "agent.json").read_bytes()
    seen = json.loads(kept)
    places |= {"agent": kept, "agent's environment": seen["proc"].encode("utf-8", "replace")}
    # As it came over the wire, not as it was written down.
    places["traffic"] = "\n".join(seen["seen"]).encode("utf-8", "replace")

    # The run was worth looking at: everything was minted, used, spilled and taken out.
    assert len(minted) >= 4
    assert any(sealed.encode() in each for each in heard)
    assert b"[removed by remit" in places["traffic"]
    assert places["traffic"].count(b"x" * 90_000) >= 10
    assert places["log"].count(b"upstream said") > 10
    assert any(name.endswith("remit.db") for name in places)
    assert len(places[f"answer evidence/tasks/{task}/pack"]) > 1000
    for secret in minted:
        for form in forms(secret):
            assert found_in({"planted": b"<" + form + b">"}, {secret})

    assert found_in(places, minted) == []


def _opened(control: ControlClient) -> Any:
    control.post(
        "agents",
        body={
            "name": "pry",
            "owner": "user:ada",
            "purpose": "To pry",
            "environment": "dev",
            "templates": ["pry"],
        },
    )
    return control.post("tasks", body={"template": "pry", "agent": "pry"})


async def _called(
    house: House, config: Path, asked: Any, out: Path, places: dict[str, bytes]
) -> set[str]:
    """Run the agent; return the leases that its calls had."""
    environment = {
        "GATEWAY": house.loaded.url,
        "TASK_TOKEN": asked["task_token"],
        "CALLS": CALLS,
        "PATH": "/usr/bin:/bin",
        "HOME": str(out.parent),
    }
    agent = ("--", sys.executable, str(HERE / "prying_agent.py"), str(out))
    command = [str(part) for part in remit("run", "--config", config, "--agent", "pry", *agent)]
    running = await asyncio.create_subprocess_exec(
        *command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=ROOT,
    )
    async with asyncio.timeout(RUN_SECONDS):
        said, _ = await running.communicate()
    assert running.returncode == 0, said.decode()
    places["agent's words"] = said
    chain = await house.authority.evidence.chain(asked["id"])
    bodies = [record.body for _, record in chain]
    return {str(body["lease"]) for body in bodies if isinstance(body, dict) and "lease" in body}


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _configured(folder: Path, **given: Any) -> Path:
    (folder / "templates").mkdir(parents=True)
    (folder / "templates" / "pry.toml").write_text(TEMPLATE)
    config = folder / "remit.toml"
    spilling = HERE / "spilling_server.py"
    config.write_text(CONFIG.format(python=sys.executable, spilling=spilling, **given))
    return config
