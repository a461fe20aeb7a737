"""A Workload API over a real trust domain, and a control socket small enough to read."""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from remit.api.peers import owner_check
from remit.identity.trust_domain import TrustDomain
from remit.identity.workload_api.attestation import Entry
from remit.identity.workload_api.peer import Peer
from remit.identity.workload_api.processes import ProcessBook
from remit.identity.workload_api.server import WorkloadApi
from remit.identity.workload_api.service import Limits
from remit.model.errors import RemitError, UnidentifiedError
from remit.model.subject import SpiffeId

DOMAIN = "remit.test"


def agent_id(name: str) -> SpiffeId:
    return SpiffeId(DOMAIN, f"/agent/{name}")


@dataclass
class Clock:
    """The real time, moved by hand."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Roll:
    """Entries that a test changes as it goes."""

    by_selector: list[Entry] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)

    def entries(self) -> list[Entry]:
        return list(self.by_selector)

    def agent(self, name: str) -> SpiffeId | None:
        return agent_id(name) if name in self.agents else None

    def admit(self, name: str, *selectors: str) -> None:
        self.by_selector.append(Entry(agent_id(name), frozenset(selectors)))


@dataclass
class House:
    domain: TrustDomain
    roll: Roll
    book: ProcessBook
    api: WorkloadApi
    clock: Clock
    path: Path

    @property
    def endpoint(self) -> str:
        return f"unix:{self.path}"


@contextlib.asynccontextmanager
async def workload_house(folder: Path, limits: Limits | None = None) -> AsyncIterator[House]:
    clock, roll, book = Clock(), Roll(), ProcessBook()
    domain = TrustDomain.open(folder / "keys", DOMAIN, clock=clock)

    async def validate(token: str, audience: str) -> dict[str, Any]:
        if audience != "known":
            raise UnidentifiedError("wrong audience")
        return {
            "sub": str(agent_id("told")),
            "aud": [audience],
            "n": len(token),
            "deep": {"a": [1]},
        }

    api = WorkloadApi(domain, roll, book, validate=validate, clock=clock, limits=limits)
    path = folder / "run" / "workload.sock"
    await api.start(path)
    try:
        yield House(domain, roll, book, api, clock, path)
    finally:
        await api.close()


@dataclass
class Control:
    """What the tiny control server was asked, and how it answers."""

    path: Path
    book: ProcessBook
    agents: set[str]
    asked: list[tuple[str, str]] = field(default_factory=list)
    refuse: tuple[int, bytes] | None = None


class _Handler(BaseHTTPRequestHandler):
    @property
    def control(self) -> Control:
        assert isinstance(self.server, _Listening)
        return self.server.control

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._decide(201, lambda peer: self._register(peer, body))

    def do_DELETE(self) -> None:
        pid = int(self.path.rpartition("/")[2])
        self._decide(200, lambda peer: self.control.book.forget(pid, by_uid=peer.uid))

    def _register(self, peer: Peer, body: dict[str, Any]) -> None:
        agent = body["agent"]
        if agent not in self.control.agents:
            raise UnidentifiedError(f"no agent `{agent}` is registered")
        self.control.book.register(
            agent,
            body["pid"],
            body["start_time"],
            peer.uid,
            by_pid=peer.pid,
            reaper=body["reaper"],
        )

    def _decide(self, good: int, act: Callable[[Peer], object]) -> None:
        self.control.asked.append((self.command, self.path))
        if self.control.refuse is not None:
            self._answer(*self.control.refuse)
            return
        peer = Peer.of(self.connection)
        try:
            owner_check(peer, os.getuid(), self.control.book)
            act(peer)
        except RemitError as error:
            self._answer(error.status, json.dumps({"message": str(error)}).encode())
        else:
            self._answer(good, b"{}")
        finally:
            peer.close()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "peer"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Listening(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    control: Control


@contextlib.contextmanager
def control_socket(path: Path, book: ProcessBook, agents: set[str]) -> Iterator[Control]:
    with _Listening(str(path), _Handler) as server:
        server.control = Control(path, book, agents)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.control
        finally:
            server.shutdown()
            thread.join()
