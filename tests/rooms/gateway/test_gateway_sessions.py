"""The book of sessions: bounded, idle ones end, and an id belongs to one caller."""

from __future__ import annotations

import json
from typing import Any

import pytest

from remit.gateway.options import GatewayOptions, UpstreamOptions
from remit.gateway.sessions import Session, Sessions
from remit.model.errors import NotFoundError, UnavailableError, UpstreamError

INITIALIZE = '{"jsonrpc":"2.0","id":0,"method":"initialize"}'


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def book(time: Time, limit: int = 3, each: int = 2) -> Sessions:
    return Sessions(limit=limit, limit_per_owner=each, idle_seconds=60, now=time)


def test_sessions_are_bounded_in_all_and_by_owner():
    sessions = book(Time())
    for number, owner in enumerate("aab"):
        sessions.require_room(owner)
        sessions.open(Session("up", str(number), owner, None))
    for owner in "abc":
        with pytest.raises(UnavailableError):
            sessions.require_room(owner)
    sessions.close("up", "0")
    sessions.close("up", "0")
    sessions.require_room("a")
    sessions.require_room("c")


def test_an_idle_session_expires_and_a_used_one_does_not():
    time = Time()
    sessions = book(time)
    sessions.open(Session("up", "1", "a", None))
    sessions.open(Session("up", "2", "a", None))
    time.now = 50
    sessions.require("up", "1", "a", None)
    time.now = 70
    assert [session.id for session in sessions.expired()] == ["2"]
    with pytest.raises(NotFoundError):
        sessions.require("up", "2", "a", None)
    sessions.require("up", "1", "a", None)
    assert len(sessions) == 1


def test_a_session_is_nobody_elses_and_of_no_other_task_or_upstream():
    sessions = book(Time())
    sessions.open(Session("up", "1", "a", "task_1"))
    for upstream, owner, task in (
        ("up", "b", "task_1"),
        ("up", "a", "task_2"),
        ("up", "a", None),
        ("other", "a", "task_1"),
    ):
        with pytest.raises(NotFoundError):
            sessions.require(upstream, "1", owner, task)


def test_an_id_that_an_upstream_gives_twice_is_refused():
    sessions = book(Time())
    sessions.open(Session("up", "1", "a", None))
    for bad in ("1", "", "x" * 2000):
        with pytest.raises(UpstreamError):
            sessions.open(Session("up", bad, "b", None))
    sessions.require("up", "1", "a", None)


async def test_a_session_beyond_the_limit_is_refused_before_the_upstream_hears_of_it(
    stand: Any, serve: Any, recorder: Any, until: Any
):
    opened: list[bytes] = []

    async def script(request: Any, receive: Any, send: Any) -> None:
        opened.append(str(len(opened)).encode())
        head = [(b"content-type", b"application/json"), (b"mcp-session-id", opened[-1])]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"{}"})

    recorder.script = script
    options = GatewayOptions(max_sessions=2, session_idle_seconds=1000)
    async with (
        serve(recorder) as url,
        stand(UpstreamOptions(name="up", url=url), options=options) as made,
    ):
        assert [(await made.post(INITIALIZE)).status for _ in range(3)] == [200, 200, 503]
        assert len(opened) == 2
        made.gateway.house.sessions._idle_seconds = -1
        await made.post(INITIALIZE)
        await until(lambda: sum(heard["method"] == "DELETE" for heard in recorder.heard) == 2)


async def test_a_session_that_the_upstream_forgot_is_forgotten_here(plain: Any, recorder: Any):
    async def script(request: Any, receive: Any, send: Any) -> None:
        fresh = b"initialize" in request["body"]
        head = [(b"content-type", b"application/json"), (b"mcp-session-id", b"s")]
        await send(
            {"type": "http.response.start", "status": 200 if fresh else 404, "headers": head}
        )
        await send({"type": "http.response.body", "body": b"{}"})

    recorder.script = script
    await plain.post(INITIALIZE)
    assert len(plain.gateway.house.sessions) == 1
    ping = '{"jsonrpc":"2.0","id":1,"method":"ping"}'
    assert (await plain.post(ping, mcp_session_id="s")).status == 404
    assert len(plain.gateway.house.sessions) == 0
    assert json.loads((await plain.post(INITIALIZE)).body) == {}


async def test_an_initialize_takes_nobody_into_a_session_that_is_there(plain: Any, recorder: Any):
    await plain.post(INITIALIZE, mcp_session_id="of-another")
    assert "of-another" not in str(recorder.heard[0]["headers"])
