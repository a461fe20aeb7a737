"""An agent calls a plain HTTP API through Remit: decided, with a token of its own, which then dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from processes import free_port

from remit.app.compose import House, compose
from remit.app.config import load
from remit.app.packing import export
from remit.app.serve import serving
from remit.cli.client import ControlClient
from remit.closing import close_task
from remit.model.subject import Agent, Environment
from remit.model.task import TaskState
from remit.proof.verify import verify_pack
from remit.tasks.request import Opened, TaskRequest

CONFIG = """\
[authority]
state = "s"
listen = "127.0.0.1:{port}"
[service.shop]
url = "http://127.0.0.1:{shop}/v1"
private = true
openapi = "shop.yaml"
operations = ["orders/get"]
headers = {{ X-Api-Version = "3" }}
[[service.shop.operation]]
name = "refund"
method = "POST"
path = "/orders/{{order}}/refunds"
body = "json"
[service.shop.tool."orders.get"]
side_effects = false
[service.shop.credential]
broker = "tokens"
header = {{ Authorization = "Bearer {{token}}" }}
[broker.tokens]
kind = "jwt"
audience = "https://shop.example"
introspected = true
resources = ["spiffe://remit.local/agent/shop"]
[policy]
templates = "templates"
"""
DOCUMENT = """\
openapi: 3.0.3
paths:
  /orders/{order}:
    get:
      operationId: orders/get
      summary: One order
    delete:
      operationId: orders/drop
"""
TEMPLATE = """\
purpose = "Refund"
[[capability]]
tool = "shop/orders.get"
args = { order = { const = "7" } }
[[capability]]
tool = "shop/refund"
args = { order = { const = "7" }, amount = { type = "number", maximum = 100 } }
"""


@dataclass
class Shop:
    """The API: it asks Remit about every token, does what it is told, and talks too much."""

    remit: str
    house: House | None = None
    heard: list[tuple[str, str, bytes]] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)

    async def about(self, token: str) -> dict[str, Any]:
        """Ask whether a token holds (RFC 7662)."""
        assert self.house is not None
        name = self.house.authority.registry.get("shop")
        assert name is not None
        svid = self.house.trust_domain.issue_jwt_svid(name.spiffe_id, ["remit"])
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                f"{self.remit}/oauth/introspect",
                data={"token": token},
                headers={"authorization": f"Bearer {svid}"},
            ) as got,
        ):
            assert got.status == 200
            return dict(await got.json())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        assert headers["x-api-version"] == "3"
        token = headers["authorization"].removeprefix("Bearer ")
        said = await self.about(token)
        self.raw.append(token)
        self.tokens.append(said)
        self.heard.append((scope["method"], scope["path"], body))
        status = 200 if said["active"] else 401
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", b"application/json"), (b"x-debug", token.encode())],
            }
        )
        await send({"type": "http.response.body", "body": json.dumps({"token": token}).encode()})


@dataclass
class Place:
    house: House
    shop: Shop
    agent: Agent
    opened: Opened
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, value: Any = None) -> Any:
        svid = self.house.trust_domain.issue_jwt_svid(self.agent.spiffe_id, ["remit"])
        headers = {"authorization": f"Bearer {svid}", "remit-task": self.opened.token}
        url = f"{self.house.loaded.url}/egress/shop{path}"
        async with self.http.request(method, url, json=value, headers=headers) as got:
            return got.status, got.headers.copy(), await got.text()

    async def records(self, kind: str) -> list[Any]:
        await self.house.authority.evidence.publisher.publish()
        size = self.house.authority.evidence.publisher.size
        entries = [json.loads(e) for e in await self.house.authority.evidence.log.entries(0, size)]
        return [each for each in entries if each["kind"] == kind]


@contextlib.asynccontextmanager
async def listening(app: Any, port: int) -> AsyncIterator[None]:
    config = uvicorn.Config(app, port=port, lifespan="off", ws="none", log_config=None)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())  # without its signals
    while not server.started:  # noqa: ASYNC110 - it has no event to wait for
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    port, shop_port = free_port(), free_port()
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "refund.toml").write_text(TEMPLATE)
    (tmp_path / "shop.yaml").write_text(DOCUMENT)
    (tmp_path / "remit.toml").write_text(CONFIG.format(port=port, shop=shop_port))
    shop = Shop(f"http://127.0.0.1:{port}")
    async with (
        serving(load(tmp_path / "remit.toml")) as house,
        listening(shop, shop_port),
        aiohttp.ClientSession() as http,
    ):
        shop.house = house
        given = {
            "by": "user:ada",
            "owner": "user:ada",
            "purpose": "Help",
            "environment": Environment.DEV,
            "autonomy": 2,
        }
        register = house.authority.registry.register
        agent = await register("helper", templates=("refund",), **given)
        await register("shop", templates=(), **given)
        opened = await house.authority.tasks.open(
            TaskRequest(template="refund"), agent=agent, opened_by="user:ada"
        )
        yield Place(house, shop, agent, opened, http)


async def test_a_call_is_decided_made_with_its_own_token_and_the_token_dies(place: Place):
    status, headers, text = await place.ask("GET", "/orders/7")
    assert status == 200
    (said,), (token,) = place.shop.tokens, place.shop.raw
    assert said["active"] is True
    assert said["aud"] == "https://shop.example"
    (details,) = said["authorization_details"]
    assert details["identifier"] == "shop/orders.get"
    assert place.shop.heard == [("GET", "/v1/orders/7", b"")]
    # It gave the token away: in its answer, and in a header. The agent saw neither.
    assert token not in text + repr(headers)
    assert "[removed by remit: remit.credential]" in text
    assert (await place.shop.about(token))["active"] is False
    assert place.house.authority.leases.open_leases() == ()
    (ended,) = await place.records("call.succeeded")
    assert ended["body"]["target"] == "shop/orders.get"
    (leak,) = ended["body"]["leaks"]
    (settled,) = await place.records("lease.settled")
    assert (leak["count"], leak["lease"]) == (2, settled["body"]["lease"])
    assert settled["body"]["confirmed"] is True


async def test_what_the_task_is_not_for_is_refused_and_nothing_is_sent(place: Place):
    for method, path, value in (
        ("GET", "/orders/8", None),
        ("POST", "/orders/7/refunds", {"amount": 500}),
        ("POST", "/orders/7/refunds", {"amount": 5, "to": "me"}),
    ):
        status, headers, text = await place.ask(method, path, value)
        assert (status, json.loads(text)["remit"]["effect"]) == (403, "deny"), text
        assert headers["content-type"] == "application/problem+json"
    assert (await place.ask("DELETE", "/orders/7"))[0] == 404
    assert place.shop.heard == []
    assert (await place.ask("POST", "/orders/7/refunds", {"amount": 50}))[0] == 200
    assert place.shop.heard == [("POST", "/v1/orders/7/refunds", b'{"amount": 50}')]
    await close_task(place.opened.task.id, TaskState.COMPLETED, "user:ada", place.house.authority)
    assert (await place.ask("GET", "/orders/7"))[0] == 403
    assert len(place.shop.heard) == 1


async def test_no_token_is_left_anywhere_and_the_pack_verifies(place: Place):
    await place.ask("GET", "/orders/7")
    await place.ask("POST", "/orders/7/refunds", {"amount": 50})
    authority, task = place.house.authority, place.opened.task.id
    await close_task(task, TaskState.COMPLETED, "user:ada", authority)
    pack = await export(place.house, task)
    assert verify_pack(pack, [authority.evidence.signer.vkey]).sealed
    files = [each for each in place.house.loaded.folder.rglob("*") if each.is_file()]
    for token in place.shop.raw:
        assert token.encode() not in pack
        assert not [each for each in files if token.encode() in each.read_bytes()]


async def test_an_operation_that_was_taken_out_is_gone_after_a_start_and_its_records_stay(
    tmp_path: Path,
):
    config = tmp_path / "remit.toml"
    head = '[authority]\nstate = "s"\n[service.shop]\nurl = "https://shop.example"\n'
    operation = '[[service.shop.operation]]\nname = "{0}"\nmethod = "GET"\npath = "/{0}"\n'
    listed = []
    for names in (("old", "new"), ("new",), ("new",)):
        config.write_text(head + "".join(operation.format(name) for name in names))
        house = await compose(load(config))
        try:
            listed.append([tool.target for tool in house.authority.catalogue.list()])
            records = [r for _, r in await house.authority.evidence.records(limit=100)]
        finally:
            await house.close()
    assert listed == [["shop/new", "shop/old"], ["shop/new"], ["shop/new"]]
    told = [r.kind for r in records if r.body.get("target") == "shop/old"]
    assert told == ["tool.catalogued", "tool.removed"]


async def test_operations_are_catalogued_before_the_first_call(place: Place):
    client = ControlClient(place.house.loaded.control_socket)
    listed = (await asyncio.to_thread(client.get, "catalog", upstream="shop"))["items"]
    assert {each["target"]: each["side_effects"] for each in listed} == {
        "shop/orders.get": False,
        "shop/refund": True,
    }
    assert {each["state"] for each in listed} == {"accepted"}
    standing = await asyncio.to_thread(client.get, "status")
    assert standing["services"] == {"shop": "ready"}
    await place.ask("GET", "/orders/7")
    async with place.http.get(f"{place.house.loaded.url}/metrics") as got:
        shown = await got.text()
    assert 'remit_calls_total{ending="succeeded",upstream="shop"} 1.0' in shown
    assert 'remit_leaks_total{upstream="shop",whose="ours"} 2.0' in shown
