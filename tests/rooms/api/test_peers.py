"""The control socket knows its peer from the kernel, and takes no agent for its owner."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop

from remit.api.peers import PeerHttp, owner_check, peer_of
from remit.identity.workload_api.peer import Peer
from remit.identity.workload_api.proc import process
from remit.identity.workload_api.processes import ProcessBook
from remit.model.errors import UnidentifiedError

CONNECT = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
CHILD = f"import subprocess,sys; subprocess.run([sys.executable,'-c',{CONNECT!r},sys.argv[1]])"


async def tell_peer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    peer = peer_of(scope)
    body = json.dumps([peer.uid, peer.gid, peer.pid, peer.alive]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def served(listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        tell_peer, http=PeerHttp, ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.ensure_future(server._serve([listener]))
    while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await running


def unix_listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


async def ask(path: Path, times: int = 1) -> list[Any]:
    def talk() -> list[Any]:
        connection = http.client.HTTPConnection("remit", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(str(path))
        answers = []
        for _ in range(times):
            connection.request("GET", "/")
            answers.append(json.loads(connection.getresponse().read()))
        connection.close()
        return answers

    return await asyncio.to_thread(talk)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_every_request_on_a_unix_socket_carries_its_peer(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
):
    async def story() -> None:
        async with served(unix_listener(tmp_path / "s")):
            me = [os.getuid(), os.getgid(), os.getpid(), True]
            assert await ask(tmp_path / "s", times=3) == [me, me, me]

    run(story(), loop)


def test_a_connection_that_is_not_a_unix_socket_is_closed():
    async def story() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        async with served(listener):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    run(story(), asyncio.new_event_loop)


def test_a_request_without_a_peer_is_nobodys():
    for scope in ({}, {"extensions": None}, {"extensions": {"remit.peer": "root"}}):
        with pytest.raises(UnidentifiedError, match="did not come over the control socket"):
            peer_of(scope)


def test_the_owner_is_known_by_uid_and_another_user_is_refused():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer.of(ours)
        person = owner_check(peer, os.getuid(), ProcessBook())
        assert person.method == "kernel"
        assert person.id.startswith("user:")
        with pytest.raises(UnidentifiedError, match="is the owner's"):
            owner_check(peer, os.getuid() + 1, ProcessBook())
        peer.close()


def test_a_peer_that_has_gone_is_not_taken_for_the_owner():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer.of(ours)
        peer.close()
        with pytest.raises(UnidentifiedError, match="has gone"):
            owner_check(peer, os.getuid(), ProcessBook())


@pytest.mark.parametrize("code", [CONNECT, CHILD])
def test_an_agents_process_and_its_descendants_are_refused_under_the_owners_uid(
    tmp_path: Path, code: str
):
    with unix_listener(tmp_path / "s") as listener:
        popen = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "s")], start_new_session=True
        )
        connection, _ = listener.accept()
        with connection:
            peer = Peer.of(connection)
            book = ProcessBook()
            assert owner_check(peer, os.getuid(), book)
            found = process(popen.pid)
            assert found is not None
            book.register("a", popen.pid, found.start_time, os.getuid())
            with pytest.raises(UnidentifiedError, match="agent `a` may not"):
                owner_check(peer, os.getuid(), book)
            peer.close()
        popen.wait()


def run(story: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story)


DEEP = """
import os, sys
from pathlib import Path
from remit.identity.workload_api.proc import lineage
from remit.model.errors import UnidentifiedError
depth = int(sys.argv[1])
for _ in range(depth):
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status))
try:
    line = lineage(os.getpid())
except UnidentifiedError:
    os._exit(7)
os._exit(0 if line and line[-1].parent == 0 else 9)
"""


@pytest.mark.parametrize(("depth", "status"), [(3, 0), (520, 7)])
def test_a_process_too_deep_to_trace_is_nobody_rather_than_the_owner(depth: int, status: int):
    run = subprocess.run([sys.executable, "-c", DEEP, str(depth)], check=False, timeout=60)
    assert run.returncode == status
