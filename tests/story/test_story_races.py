"""Calls that race the end of their task: nothing acts once a lease counts as settled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import world
from aiohttp import web
from world import World

from remit.app import brokers
from remit.closing import close_task
from remit.credentials.port import Revocation, Traits
from remit.gateway.flight import Flight
from remit.gateway.reply import Reply
from remit.gateway.upstream import Outgoing
from remit.gateway.wire import Message
from remit.model.call import CALL_TOOL, Call
from remit.model.errors import BrokerError, RemitError
from remit.model.lease import Lease
from remit.model.outcome import Ending, Outcome
from remit.model.record import Step
from remit.model.task import TaskState
from remit.policy.catalogue import Definition
from remit.proof.encoding import canonical, digest
from remit.testing.credentials import MemoryTarget

ACTING = Path(__file__).with_name("acting_server.py")
CONFIGURED = """\
[upstream.web]
url = "http://127.0.0.1:{port}/mcp"
[upstream.web.credential]
broker = "memory"
scope = "{scope}"
header = {{ Authorization = "{{token}}" }}
[upstream.box]
command = ["{python}", "-S", "-E", "{acting}"]
env = {{ OUT = "{out}" }}
[upstream.box.credential]
broker = "memory"
scope = "{scope}"
env = {{ TOKEN = "{{token}}" }}
[broker.memory]
kind = "memory"
"""
CAPABILITIES = """\
[[capability]]
tool = "web/act"
[[capability]]
tool = "box/act"
"""


class StandingTarget(MemoryTarget):
    """It never takes a credential back: only that nobody uses one can keep a settled one quiet."""

    @property
    def traits(self) -> Traits:
        return Traits(revocation="never", confirms=False, lists=False)

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        await super().revoke(lease, keep)
        await asyncio.sleep(0)
        return Revocation(confirmed=False)


class Racing:
    """The world with two upstreams that act, and a look at each lease in the moment it is over."""

    def __init__(self, made: World, out: Path, target: MemoryTarget) -> None:
        self.world = made
        self.out = out
        self.target = target
        self.over: set[str] = set()
        self.acts_when_over: dict[str, int] = {}
        self.wrong: list[str] = []
        self.served = 0

    def acts(self, token: str) -> int:
        path = self.out / token
        return path.stat().st_size if path.exists() else 0

    def noted(self, lease: Lease) -> None:
        """Look at a lease that moves."""
        if lease.state.value in {"settled", "failed"}:
            token = f"secret-of-{lease.handle}"
            self.over.add(token)
            self.acts_when_over.setdefault(token, self.acts(token))

    def call(self, upstream: str) -> tuple[Call, Flight]:
        body = {"action": CALL_TOOL, "target": f"{upstream}/act", "arguments": {}}
        call = Call(
            id=f"call_{next(self.world.numbers):026d}",
            action=CALL_TOOL,
            upstream=upstream,
            name="act",
            arguments={},
            digest=digest(canonical(body)),
        )
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "act"}}
        message = Message(
            json.dumps(request).encode(), "request", "tools/call", 1, request["params"], True
        )
        house = self.world.house.gateway.house
        outgoing = Outgoing(method="POST", headers=[], message=message, owner="agent")
        flight = Flight(
            outgoing,
            house.upstreams[upstream],
            Reply(_nowhere),
            house.pending,
            house.guard,
            in_flight=house.in_flight,
        )
        return call, flight


async def _nowhere(_: Any) -> None:
    pass


@contextlib.asynccontextmanager
async def racing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, scope: str, target: MemoryTarget
) -> AsyncIterator[Racing]:
    racers: list[Racing] = []

    async def act(request: web.Request) -> web.Response:
        token = request.headers["Authorization"]
        if not target.accepts({"token": token}):
            return web.Response(status=401)
        if token in racers[0].over:
            racers[0].wrong.append("the service acted for a lease that was over")
        racers[0].served += 1
        return web.json_response({"jsonrpc": "2.0", "id": 1, "result": {}})

    app = web.Application()
    app.router.add_post("/mcp", act)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    out = folder / "out"
    out.mkdir()
    given = CONFIGURED.format(port=port, scope=scope, python=sys.executable, acting=ACTING, out=out)
    monkeypatch.setattr(world, "CONFIG", world.CONFIG + given)
    monkeypatch.setattr(world, "TEMPLATE", world.TEMPLATE + CAPABILITIES)
    loaded = Step(kind="plugin.loaded", body={"name": "memory"})
    monkeypatch.setattr(brokers, "load_broker", lambda *_: (target, loaded))
    try:
        async with world.standing(folder) as made:
            for upstream in ("web", "box"):
                made.house.authority.catalogue.observe(
                    upstream, "tool", [Definition(name="act", json_bytes=b'{"name":"act"}')]
                )
            racer = Racing(made, out, target)
            racers.append(racer)
            put = made.house.lease_pages.put

            def putting(lease: Lease) -> None:
                put(lease)
                racer.noted(lease)

            monkeypatch.setattr(made.authority.leases._store, "put", putting)
            yield racer
    finally:
        await runner.cleanup()


async def _after(turns: int, seconds: float, work: Callable[[], Awaitable[Any]]) -> Any:
    for _ in range(turns):
        await asyncio.sleep(0)
    if seconds:
        await asyncio.sleep(seconds)
    return await work()


async def race(racer: Racing, upstream: str, seed: int, span: float) -> list[Any]:
    """Begin two calls and the end of their task at three moments; return how the calls ended."""
    chance = random.Random(seed)
    made = racer.world
    # The end of a task waits for calls in flight, but not for ever.
    made.authority.tasks._endings._wait_seconds = chance.choice([0.0, 0.01, 10.0])
    opened = await made.open()
    claim = made.claim(task_token=opened.token)

    def calling() -> Callable[[], Awaitable[Any]]:
        call, flight = racer.call(upstream)
        return lambda: made.perform(call, claim=claim, act=flight.act)

    def ending() -> Awaitable[Any]:
        return close_task(opened.task.id, TaskState.COMPLETED, "user:ada", made.authority)

    def moment(within: float) -> tuple[int, float]:
        return chance.randrange(40), chance.choice([0, chance.random() * within])

    *calls, closed = await asyncio.gather(
        _after(*moment(span / 4), calling()),
        _after(*moment(span / 4), calling()),
        _after(*moment(span), ending),
        return_exceptions=True,
    )
    assert not isinstance(closed, BaseException), closed
    for each in calls:
        assert not isinstance(each, BaseException) or isinstance(each, RemitError), each
    assert [e for e in made.authority.leases.open_leases() if e.task == opened.task.id] == []
    return calls


def _succeeded(ended: Any) -> bool:
    return isinstance(ended, Outcome) and ended.ending is Ending.SUCCEEDED


@pytest.mark.parametrize("target", [MemoryTarget, StandingTarget])
@pytest.mark.parametrize("scope", ["call", "task"])
async def test_no_request_is_begun_and_no_service_acts_for_a_lease_that_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str, target: type[MemoryTarget]
):
    async with racing(tmp_path, monkeypatch, scope, target()) as racer:
        begin = aiohttp.ClientSession.request

        def beginning(self: Any, method: str, url: Any, **more: Any) -> Any:
            token = dict(more["headers"])["Authorization"]
            if token in racer.over:
                racer.wrong.append("a request was begun for a lease that was over")
            return begin(self, method, url, **more)

        monkeypatch.setattr(aiohttp.ClientSession, "request", beginning)
        ended = []
        for seed in range(100):
            ended += await race(racer, "web", seed, 0.02)
        assert racer.wrong == []
        assert racer.target.live == set()
        # Nobody hears success of a call whose credential was revoked before the service saw it.
        succeeded = [each for each in ended if _succeeded(each)]
        assert 0 < len(succeeded) <= racer.served
        # The schedules were apart enough for both to happen.
        assert {isinstance(each, RemitError) for each in ended} == {True, False}


@pytest.mark.parametrize("scope", ["call", "task"])
async def test_no_process_acts_once_its_lease_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str
):
    async with racing(tmp_path, monkeypatch, scope, StandingTarget()) as racer:
        for seed in range(200):
            await race(racer, "box", seed, 0.3)
            # On a busy machine it takes more races until one is ended in the midst of acting.
            if seed > 25 and any(racer.acts(token) % 50 for token in racer.over):
                break
        acted = {token: racer.acts(token) for token in racer.over}
        assert acted == {token: racer.acts_when_over[token] for token in racer.over}
        assert any(acted.values())
        # Some were ended in the midst of acting.
        assert any(count % 50 for count in acted.values())
        assert not (racer.out / "nothing").exists()
        assert len(racer.world.house.gateway.upstreams["box"]._places) == 0  # type: ignore[attr-defined]


async def test_a_credential_that_was_taken_back_before_its_use_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with racing(tmp_path, monkeypatch, "call", StandingTarget()) as racer:
        leases = racer.world.authority.leases
        issue = leases.issue

        async def issuing(lease: Lease, **given: Any) -> Any:
            credential = await issue(lease, **given)
            # Somebody takes it back while that it was issued is made durable.
            await leases.revoke(lease.id, "user:ada")
            return credential

        monkeypatch.setattr(leases, "issue", issuing)
        call, flight = racer.call("web")
        with pytest.raises(BrokerError, match="taken back before its use"):
            await racer.world.perform(call, act=flight.act)
        assert flight.held is None
