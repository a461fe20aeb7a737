"""A gateway over real HTTP, in front of real servers, with an authority that is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import uvicorn

from remit.gateway.front import Gateway, mcp_app
from remit.gateway.injection import Injection
from remit.gateway.options import GatewayOptions, UpstreamOptions
from remit.model.catalogue import Tool, ToolState
from remit.model.decision import Decision, Effect, Reason
from remit.model.errors import DeniedError, EvidenceError, MandateError, UnidentifiedError
from remit.model.mandate import Capability, Mandate, Template
from remit.model.subject import Agent, Environment, SpiffeId, Subject
from remit.model.task import Task, TaskState
from remit.testing.evidence import MemoryRecorder

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def agent(name: str, *templates: str) -> Agent:
    return Agent(
        name=name,
        spiffe_id=SpiffeId("remit.test", f"/agent/{name}"),
        owner="user:olivia@corp.example",
        purpose="tests",
        environment=Environment.DEV,
        templates=templates,
        gateway_templates=templates,
        registered_at=NOW,
    )


def subject(who: Agent) -> Subject:
    return Subject(
        workload=who.spiffe_id,
        agent=who,
        method="jwt-svid",
        issuer="spiffe://remit.test",
        credential="00",
        expires_at=NOW + timedelta(hours=1),
    )


def task_of(who: Agent, task_id: str, template: Template) -> Task:
    return Task(
        mandate=Mandate(
            id=task_id,
            purpose="a test",
            prompt=None,
            template=template.name,
            template_digest="sha256:0",
            workload=who.spiffe_id,
            on_behalf_of="user:olivia@corp.example",
            opened_by="test",
            capabilities=template.capabilities,
            environments=template.environments,
            data_ceiling=template.data_ceiling,
            egress=(),
            budget=template.budget,
            issued_at=NOW,
            expires_at=NOW + timedelta(minutes=30),
        ),
        template=template,
        signed_mandate="a.b.c",
        mandate_digest="sha256:0",
    )


class FakeIdentity:
    def __init__(self) -> None:
        self.agents = {"token-a": agent("a"), "token-b": agent("b"), "token-g": agent("g", "work")}

    async def identify(self, claim: Any) -> Subject:
        if claim.bearer not in self.agents:
            raise UnidentifiedError("the token is not one of ours")
        return subject(self.agents[claim.bearer])

    async def receive(self, claim: Any) -> tuple[Any, Subject]:
        return claim, await self.identify(claim)


class FakeTasks:
    def __init__(self) -> None:
        template = Template(
            name="work", purpose="to work", capabilities=(Capability(target="up/echo"),)
        )
        self.templates = {"work": template}
        self.open_tasks: dict[str, Task] = {}
        self.bound: dict[str, str] = {}
        self.requests: list[Any] = []

    async def admit(self, claim: Any, subject: Subject) -> Task:
        if claim.task_token is None:
            raise MandateError("no task token was presented")
        name, _, task_id = claim.task_token.partition(":")
        task = self.open_tasks.get(claim.task_token)
        if task is not None:
            return task
        if name != subject.agent.name:
            raise MandateError("the task token belongs to another workload")
        return task_of(subject.agent, task_id, self.templates["work"])

    def current(self, key: str) -> str | None:
        return self.bound.get(key)

    def bind_current(self, key: str, task_id: str) -> None:
        self.bound[key] = f"opened:{task_id}"

    async def open(
        self, request: Any, *, agent: Agent, opened_by: str, key: str | None = None
    ) -> Any:
        self.requests.append(request)
        task = task_of(agent, f"task_{len(self.requests)}", self.templates["work"])
        self.open_tasks[f"opened:{task.id}"] = task
        return SimpleNamespace(task=task, token=f"opened:{task.id}")


class FakeCatalogue:
    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.changed: set[str] = set()

    def find(self, target: str) -> Tool | None:
        return self._tool(target) if target in self.seen else None

    def observe(self, upstream: str, kind: str, definitions: Any) -> list[Tool]:
        found = []
        for definition in definitions:
            target = f"{upstream}/{definition.name}"
            self.seen[target] = definition
            found.append(self._tool(target))
        return found

    def _tool(self, target: str) -> Tool:
        state = ToolState.CHANGED if target in self.changed else ToolState.ACCEPTED
        return Tool(
            target=target,
            kind="tool",
            state=state,
            definition_digest="1",
            seen_digest="1",
            environment=Environment.DEV,
        )


class FakePolicy:
    def __init__(self) -> None:
        self.hidden: set[str] = set()
        self.bundle_digest = "sha256:0"

    def would_list(self, subject: Subject, task: Task, tools: Any) -> list[Tool]:
        return [tool for tool in tools if tool.target not in self.hidden]


@dataclass
class FakeLeases:
    """Knows the secrets that are alive, and which leases it was told to settle."""

    alive: dict[str, str] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)
    holders: list[Any] = field(default_factory=list)

    def held_by(self, let_go: Any) -> None:
        self.holders.append(let_go)

    async def end(self, lease: str) -> None:
        """End a lease as the book does: whoever holds its credential lets go first."""
        for let_go in self.holders:
            await let_go(lease)

    def secrets(self) -> dict[str, str]:
        return self.alive

    async def settle_these(self, leases: Any) -> None:
        self.settled += sorted(leases)


@dataclass
class FakeAuthority:
    """Duck-typed like :class:`remit.spine.Authority`; ``perform`` and ``close_task`` beside it."""

    identity: FakeIdentity = field(default_factory=FakeIdentity)
    tasks: FakeTasks = field(default_factory=FakeTasks)
    catalogue: FakeCatalogue = field(default_factory=FakeCatalogue)
    policy: FakePolicy = field(default_factory=FakePolicy)
    evidence: MemoryRecorder = field(default_factory=MemoryRecorder)
    leases: FakeLeases = field(default_factory=FakeLeases)
    denied: set[str] = field(default_factory=set)
    outcomes: list[Any] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    claims: list[Any] = field(default_factory=list)
    durable: asyncio.Event = field(default_factory=asyncio.Event)
    lose_outcome: bool = False
    credential: Any = None
    cut_short: int = 0

    def __post_init__(self) -> None:
        self.durable.set()

    def clock(self) -> datetime:
        return NOW

    async def perform(
        self, claim: Any, call: Any, act: Any, authority: Any, *, understand: Any = None
    ) -> Any:
        self.claims.append(claim)
        who = await self.identity.identify(claim)
        await self.tasks.admit(claim, who)
        if understand is not None:
            call = await understand(call)
        self.calls.append(call)
        decision = Decision(
            id="dec_1",
            effect=Effect.DENY if call.target in self.denied else Effect.PERMIT,
            reasons=(
                Reason(
                    policy="mandate.tool",
                    sentence="the mandate does not list this tool",
                    remedy="open a task whose template has it",
                ),
            ),
            bundle_digest="sha256:0",
            facts=b"{}",
            target=call.target,
            action=call.action,
        )
        if decision.effect is Effect.DENY:
            raise DeniedError(decision)
        try:
            outcome = await act(call, decision, self.credential)
        except asyncio.CancelledError:
            self.cut_short += 1
            raise
        self.outcomes.append(outcome)
        await self.durable.wait()
        if self.lose_outcome:
            raise EvidenceError("the outcome could not be made durable")
        return outcome

    async def close_task(self, task_id: str, state: TaskState, by: str, authority: Any) -> Task:
        token = f"opened:{task_id}"
        self.tasks.bound = {k: v for k, v in self.tasks.bound.items() if v != token}
        task = self.tasks.open_tasks.pop(token)
        return Task(
            mandate=task.mandate,
            template=task.template,
            signed_mandate="",
            mandate_digest="",
            state=state,
        )


async def until(holds: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for something to become true that nothing can be awaited for."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def served(app: Any, *, lifespan: str = "off") -> AsyncIterator[str]:
    """Serve an ASGI app on loopback; yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_level="error",
        lifespan=lifespan,
        http="h11",
        timeout_graceful_shutdown=1,
        ws="none",
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # Its own shutdown takes two naps; a test has nobody to be polite to.
        for each in server.servers:
            each.close()
        for connection in list(server.server_state.connections):
            connection.transport.close()
        serving.cancel()
        running = [serving, *server.server_state.tasks]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        listener.close()


class Recorder:
    """An upstream that is only a list of what it heard, and answers as it is told."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.script: Callable[..., Any] | None = None
        self.disconnected = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            event = await receive()
            if event["type"] != "http.request":
                return
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        request = {
            "method": scope["method"],
            "headers": [(k.decode(), v.decode()) for k, v in scope["headers"]],
            "body": body,
        }
        self.heard.append(request)
        if self.script is not None:
            await self.script(request, receive, send)
            return
        await answer(send, 200, b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}')


async def answer(
    send: Any, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    head = headers or [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Stand:
    """Everything a test needs to talk to a gateway."""

    url: str
    authority: FakeAuthority
    gateway: Gateway
    http: aiohttp.ClientSession

    async def post(self, body: bytes | str, upstream: str = "up", **headers: str) -> Any:
        sent = {
            "authorization": "Bearer token-a",
            "remit-task": "a:task_1",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
        }
        sent |= {k.replace("_", "-"): v for k, v in headers.items()}
        sent = {k: v for k, v in sent.items() if v != ""}
        data = body.encode() if isinstance(body, str) else body
        async with self.http.post(f"{self.url}/mcp/{upstream}", data=data, headers=sent) as got:
            return SimpleNamespace(
                status=got.status, headers=got.headers, body=await got.read(), text=await got.text()
            )


@contextlib.asynccontextmanager
async def standing(
    *upstreams: UpstreamOptions,
    options: GatewayOptions | None = None,
    authority: FakeAuthority | None = None,
) -> AsyncIterator[Stand]:
    authority = authority or FakeAuthority()
    gateway = mcp_app(
        authority,
        upstreams,
        options,
        perform=authority.perform,
        close_task=authority.close_task,
    )
    async with served(gateway) as url, aiohttp.ClientSession() as http:
        try:
            yield Stand(url, authority, gateway, http)
        finally:
            await gateway.close()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def stand():
    return standing


@pytest.fixture
def serve():
    return served


@pytest.fixture(name="until")
def waiting():
    return until


@pytest.fixture
async def plain(recorder: Recorder):
    """A gateway in front of the recorder, under the name ``up``."""
    async with (
        served(recorder) as url,
        standing(
            UpstreamOptions(
                name="up",
                url=f"{url}/mcp",
                answer_seconds=5,
                inject=Injection(headers={"Authorization": "Bearer {token}"}),
            )
        ) as made,
    ):
        yield made
