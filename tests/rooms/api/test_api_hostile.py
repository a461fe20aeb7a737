"""The control API under hostile hands: roles, malformed requests, and errors that tell nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from processes import free_port
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api import agents, approvals, catalog, health, keys
from remit.api.answers import MAX_BODY_BYTES, body_of, guarded, limit_of, page
from remit.api.callers import Callers
from remit.api.unrouted import app_of
from remit.app.config import load
from remit.app.serve import serving
from remit.model.contact import Contacts
from remit.model.errors import UnidentifiedError
from remit.model.subject import Claim, Person

PEOPLE = {
    "operator": Person(id="user:ada", method="oidc", roles=("operator",)),
    "manager": Person(id="user:bob", method="oidc", roles=("manager",)),
    "nobody": Person(id="user:eve", method="oidc", roles=()),
}


class People:
    """An identity desk that knows people by name; agents have no way in here."""

    async def receive_person(self, claim: Claim) -> Person:
        if claim.bearer not in PEOPLE:
            raise UnidentifiedError("the token is not from an issuer that remit was told of")
        return PEOPLE[claim.bearer]

    async def refuse(self, error: UnidentifiedError) -> None:
        assert error.status == 401


CALLERS = Callers(identity=People(), owner=lambda request: None, audience="remit")  # type: ignore[arg-type]


class Touched:
    """Any room: every use of it is remembered, so that a refusal can be seen to change nothing."""

    def __init__(self) -> None:
        self.touched: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def use(*_: Any, **__: Any) -> None:
            self.touched.append(name)
            raise ConnectionResetError("postgres://root:hunter2@db/ broke in room")

        return use


def app_over(room: Any) -> httpx2.AsyncClient:
    app = Starlette(
        routes=[
            *agents.routes(room, CALLERS, lambda: None),
            *approvals.routes(room, CALLERS),
            *catalog.routes(room, room.scan, CALLERS),
            *keys.routes(room.rotate, CALLERS),
        ]
    )
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://remit")


CHANGES = [
    ("POST", "/agents", {"name": "a"}),
    ("PATCH", "/agents/a", {"autonomy": 4}),
    ("POST", "/agents/a/suspend", {}),
    ("POST", "/agents/a/resume", {}),
    ("POST", "/agents/a/retire", {}),
    ("POST", "/catalog/accept", {"target": "git/git_log"}),
    ("POST", "/catalog/scan", {"upstream": "git"}),
    ("POST", "/keys/rotate", {"compromised": True}),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=str)
async def test_only_an_operator_changes_anything(method: str, path: str, body: object):
    room = Touched()
    async with app_over(room) as client:
        for who, status in (("nobody", 403), ("manager", 403), ("stranger", 401)):
            answer = await client.request(
                method, path, json=body, headers={"Authorization": f"Bearer {who}"}
            )
            assert answer.status_code == status, who
            assert answer.json()["error"]["code"] in {"forbidden", "unidentified"}
        assert room.touched == []
        answer = await client.request(
            method, path, json=body, headers={"Authorization": "Bearer operator"}
        )
        assert len(room.touched) == 1


async def test_what_breaks_inside_is_told_to_nobody():
    async with app_over(Touched()) as client:
        answer = await client.post(
            "/agents/a/suspend", headers={"Authorization": "Bearer operator"}
        )
    assert answer.status_code == 500
    assert answer.json() == {"error": {"code": "internal", "message": "remit failed inside"}}


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "Basic b3BlcmF0b3I6")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "operator")],
        [("Authorization", "Bearer operator"), ("Authorization", "Bearer operator")],
        [("Cookie", "token=operator")],
        [("X-Forwarded-User", "user:ada")],
    ],
    ids=str,
)
async def test_a_token_comes_in_one_authorization_header_or_not_at_all(
    headers: list[tuple[str, str]],
):
    async with app_over(Touched()) as client:
        for path in ("/agents", "/approvals"):
            answer = await client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "unidentified"
        assert (await client.get("/agents?access_token=operator")).status_code == 401


async def echoed(request: Request) -> Response:
    shape = dict[str, Any]
    return page([await body_of(request, shape)], lambda _: "next", limit_of(request))


@pytest.mark.parametrize(
    "limit", ["0", "-1", "501", "1.0", "1e2", "²", "٣", "9" * 5000, "", " 1", "0x1", "NaN"]
)
async def test_a_limit_that_is_no_number_in_bounds_is_refused(limit: str):
    app = Starlette(routes=[Route("/", guarded(echoed), methods=["POST"])])
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://remit") as client:
        answer = await client.post("/", params={"limit": limit})
        assert answer.status_code == 400
        assert len(answer.content) < 300
        assert (await client.post("/", params={"limit": "500"})).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b'{"a": NaN}',
        b'{"a": 1} {"b": 2}',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "\\u0062": 2}}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' * 40_000,
        b"[" * 100_000,
        b'{"a": "' + b"x" * MAX_BODY_BYTES + b'"}',
    ],
    ids=lambda body: repr(body[:12]),
)
async def test_a_body_that_cannot_be_read_is_refused_in_a_sentence(body: bytes):
    app = Starlette(routes=[Route("/", guarded(echoed), methods=["POST"])])
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://remit") as client:
        answer = await client.post("/", content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_input"
    assert "Traceback" not in error["message"]
    assert "\n" not in error["message"]


async def test_an_endless_body_is_refused_before_it_ends():
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 65_536

    app = Starlette(routes=[Route("/", guarded(echoed), methods=["POST"])])
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://remit") as client:
        answer = await client.post("/", content=endless())
    assert answer.status_code == 400
    assert sent < 10


async def test_readiness_names_the_part_that_is_not_and_what_is_wrong():
    trouble: dict[str, str | None] = {"evidence": None, "storage": None}
    checks = {name: (lambda name=name: trouble[name]) for name in trouble}
    app = Starlette(routes=health.routes(checks, CollectorRegistry()))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://remit") as client:
        assert (await client.get("/readyz")).status_code == 200
        trouble["evidence"] = "the disk is full"
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["parts"] == {"evidence": "the disk is full", "storage": "ready"}
        assert (await client.get("/healthz")).status_code == 200


async def test_a_target_that_is_down_is_shown_and_does_not_make_all_of_it_unready():
    contacts = Contacts(lambda: datetime(2026, 11, 25, 12, tzinfo=UTC))
    seen = {"brokers": lambda: contacts.among(["crm", "bao"]), "services": dict}
    owners = [True]
    routes = health.routes({}, CollectorRegistry(), seen, lambda _: owners[0] or None)
    transport = httpx2.ASGITransport(app=Starlette(routes=routes))
    contacts.noted("crm", None)
    contacts.noted("crm", "the database server cannot be used")
    async with httpx2.AsyncClient(transport=transport, base_url="http://remit") as client:
        answer = await client.get("/readyz")
        owners[0] = False
        others = (await client.get("/readyz")).json()
    assert others["brokers"]["crm"]["last_failed"] == "2026-11-25T12:00:00Z"
    assert "cannot be used" not in str(others)  # such words may quote a call's arguments
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "parts": {},
        "brokers": {
            "crm": {
                "last_answered": "2026-11-25T12:00:00Z",
                "last_failed": "2026-11-25T12:00:00Z",
                "last_error": "the database server cannot be used",
            },
            "bao": {"last_answered": None, "last_failed": None, "last_error": None},
        },
        "services": {},
    }


async def test_a_running_authority_shows_its_brokers_and_services(control: SimpleNamespace):
    answer = await control.socket.get("/readyz")
    assert answer.json()["brokers"] == {}
    assert answer.json()["services"] == {}


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    """An authority that serves, and a client on its control socket."""
    (tmp_path / "remit.toml").write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{free_port()}"\n'
    )
    async with serving(load(tmp_path / "remit.toml")) as house:
        transport = httpx2.AsyncHTTPTransport(uds=str(house.loaded.control_socket))
        async with (
            httpx2.AsyncClient(transport=transport, base_url="http://remit") as socket,
            httpx2.AsyncClient(base_url=house.loaded.url) as tcp,
        ):
            yield SimpleNamespace(house=house, socket=socket, tcp=tcp)


async def test_every_refusal_over_the_socket_has_a_code_and_one_line(control: SimpleNamespace):
    asked = [
        ("GET", "/agents/nobody", None, 404),
        ("GET", "/agents/%00", None, 404),
        ("GET", "/agents/%ff%fe", None, 404),
        ("GET", "/agents/a%0aerror: forged%1b[2J", None, 404),
        ("POST", "/agents/nobody/suspend", {}, 404),
        ("POST", "/agents/nobody/promote", {}, 404),
        ("PATCH", "/agents/nobody", {"autonomy": 1}, 404),
        ("POST", "/agents", {"name": "a", "autonomy": 10**30}, 400),
        ("POST", "/agents", {"name": "a", "autonomy": -1}, 400),
        ("POST", "/agents", {"name": "a", "environment": "qa"}, 400),
        ("POST", "/agents", {"name": "a" * 5000}, 400),
        ("POST", "/agents", {}, 400),
        ("GET", "/tasks/task_none", None, 404),
        ("GET", "/tasks/%00", None, 404),
        ("GET", "/tasks?state=ended", None, 400),
        ("GET", "/tasks?limit=" + "9" * 400, None, 400),
        ("POST", "/tasks", {"agent": "nobody", "template": "x"}, 404),
        ("POST", "/tasks", {"agent": {"a": 1}, "template": "x"}, 400),
        ("POST", "/tasks", {"template": "x"}, 400),
        ("POST", "/tasks/task_none/complete", {}, 404),
        ("GET", "/approvals/apr_none", None, 404),
        ("GET", "/approvals?state=maybe", None, 400),
        ("POST", "/approvals/apr_none/approve", {}, 404),
        ("POST", "/approvals/apr_none/approve", {"coment": "x"}, 400),
        ("POST", "/approvals/apr_none/shrug", {}, 404),
        ("POST", "/catalog/accept", {"target": "no/such"}, 404),
        ("POST", "/catalog/scan", {"upstream": "no"}, 404),
        ("GET", "/evidence/tasks/task_none", None, 404),
        ("GET", "/evidence/tasks/task_none/pack", None, 404),
        ("GET", "/decisions/dec_none", None, 404),
        ("GET", "/log/tile/0/999", None, 404),
        ("POST", "/keys/rotate", {"compromised": "yes"}, 400),
        ("POST", "/processes", {"agent": "a", "pid": 1, "start_time": 1}, 404),
        ("POST", "/processes", {"agent": "a", "pid": "1", "start_time": 1}, 400),
        ("DELETE", "/processes/me", None, 400),
        ("DELETE", "/processes/²", None, 400),
        ("DELETE", "/processes/" + "9" * 5000, None, 400),
    ]
    before = await control.house.authority.evidence.records(limit=1000)
    for method, path, body, status in asked:
        answer = await control.socket.request(method, path, json=body)
        assert (path, answer.status_code) == (path, status), answer.text
        error = answer.json()["error"]
        assert re.fullmatch(r"[a-z_]+", error["code"])
        assert error["message"]
        assert error["message"].isprintable(), path
        assert "Error" not in error["message"]
    assert await control.house.authority.evidence.records(limit=1000) == before


async def test_no_process_but_the_callers_own_can_be_named(control: SimpleNamespace):
    await control.socket.post("/agents", json={"name": "reader", "owner": "user:ada"})
    for pid in (-1, 0, 2**31, 10**30, 1):
        answer = await control.socket.post(
            "/processes", json={"agent": "reader", "pid": pid, "start_time": 1}
        )
        assert answer.status_code in {400, 401}, answer.text


async def test_a_registered_name_is_refused_a_second_time_and_stays_as_it_was(
    control: SimpleNamespace,
):
    made = (await control.socket.post("/agents", json={"name": "a", "owner": "user:ada"})).json()
    again = await control.socket.post("/agents", json={"name": "a", "owner": "user:eve"})
    assert again.status_code == 409
    assert (await control.socket.get("/agents/a")).json() == made


async def test_an_agent_retires_for_good_however_many_ask_at_once(control: SimpleNamespace):
    await control.socket.post("/agents", json={"name": "a", "owner": "user:ada"})
    verbs = [
        control.socket.post("/agents/a/retire"),
        control.socket.post("/agents/a/retire"),
        control.socket.post("/agents/a/retire"),
    ]
    answers = sorted(answer.status_code for answer in await asyncio.gather(*verbs))
    assert answers.count(200) >= 1
    assert set(answers) <= {200, 409}
    assert (await control.socket.get("/agents/a")).json()["state"] == "retired"
    assert (await control.socket.post("/agents/a/resume")).status_code == 409


async def test_metrics_are_prometheus_text_and_name_no_agent_or_task(control: SimpleNamespace):
    await control.socket.post("/agents", json={"name": "secretive", "owner": "user:ada"})
    answer = await control.tcp.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "remit_log_size" in answer.text
    assert "secretive" not in answer.text
    assert "user:ada" not in answer.text


async def test_answers_are_not_kept_by_caches(control: SimpleNamespace):
    for path in ("/agents", "/tasks", "/status"):
        assert (await control.socket.get(path)).headers["cache-control"] == "no-store"
    assert json.loads((await control.socket.get("/status")).content)["agents"] == 0


@pytest.mark.parametrize("way", ["tcp", "socket"])
async def test_a_head_too_large_is_refused_at_the_port_and_at_the_socket(
    control: SimpleNamespace, way: str
):
    answer = await getattr(control, way).get("/healthz", headers={"a": "x" * 100_000})
    assert answer.status_code == 431
    assert answer.json()["error"]["code"] == "head_too_large"


REBOUND = {
    "another host": [("host", "evil.example")],
    "another origin": [("host", "127.0.0.1"), ("origin", "http://evil.example")],
    "no origin to speak of": [("host", "127.0.0.1"), ("origin", "null")],
    "two origins": [("origin", "http://127.0.0.1"), ("origin", "http://evil.example")],
    "a host that only begins well": [("host", "127.0.0.1.evil.example:7480")],
}


@pytest.mark.parametrize("how", REBOUND)
async def test_a_page_that_was_rebound_to_the_port_reads_nothing(
    control: SimpleNamespace, how: str
):
    for path in ("/readyz", "/metrics", "/log/checkpoint", "/tasks", "/.well-known/spiffe-bundle"):
        answer = await control.tcp.get(path, headers=httpx2.Headers(REBOUND[how]))
        assert answer.status_code in {400, 403}, path
        assert set(answer.json()["error"]) == {"code", "message"}
    assert (await control.tcp.get("/healthz", headers=httpx2.Headers(REBOUND[how]))).is_success


async def test_a_host_that_the_operator_named_may_read_the_log(tmp_path: Path):
    (tmp_path / "remit.toml").write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{free_port()}"\n'
        'allowed_hosts = ["log.corp.example"]\n'
    )
    async with (
        serving(load(tmp_path / "remit.toml")) as house,
        httpx2.AsyncClient(base_url=house.loaded.url) as tcp,
    ):
        answer = await tcp.get("/log/checkpoint", headers={"host": "log.corp.example"})
        assert answer.is_success


@pytest.mark.parametrize("way", ["tcp", "socket"])
async def test_what_no_route_answers_is_refused_as_json(control: SimpleNamespace, way: str):
    client = getattr(control, way)
    for method, path, status, allow in (
        ("GET", "/nowhere", 404, None),
        ("GET", "/", 404, None),
        ("GET", "/agents/", 404, None),
        ("DELETE", "/agents", 405, {"GET", "HEAD", "POST"}),
        ("POST", "/readyz", 405, {"GET", "HEAD"}),
        ("GET", "/keys/rotate", 405, {"POST"}),
        ("TRACE", "/log/checkpoint", 405, {"GET", "HEAD"}),
    ):
        answer = await client.request(method, path)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) == {"code", "message"}
        if allow:
            assert set(answer.headers["allow"].split(", ")) == allow


async def test_a_route_that_breaks_tells_nothing():
    def broken() -> None:
        raise ConnectionResetError("postgres://root:hunter2@db/")

    app = app_of(list(health.routes({"evidence": broken}, CollectorRegistry())))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://remit") as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 500
    assert answer.json() == {"error": {"code": "internal", "message": "remit failed inside"}}


async def test_the_operator_says_how_many_connections_are_enough(tmp_path: Path):
    port = free_port()
    (tmp_path / "remit.toml").write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{port}"\n[limits]\nconnections = 1\n'
    )
    async with serving(load(tmp_path / "remit.toml")):
        _, first = await asyncio.open_connection("127.0.0.1", port)
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        for each in (first, second):
            each.close()
