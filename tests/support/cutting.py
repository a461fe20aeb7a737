"""A relay that counts what passes between a process and its target, and cuts at one message.

With it a process dies between any two messages of a mint or a revocation, and the one that it died
at never passes, passes at once, or arrives late: after the next run has swept already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from enum import Enum
from pathlib import Path

_ANSWER_SECONDS = 0.3
_NOT_ABANDONED = {"0A", "06", "01"}
"""Listening, over (TIME_WAIT), and established."""


class How(Enum):
    """What becomes of one message. The process dies at it, unless it is ``HELD``.

    ``LATE`` and ``HELD`` arrive when they are told to.
    """

    DROPPED = "dropped"
    PASSED = "passed"
    LATE = "late"
    HELD = "held"


class Cutting:
    """Relays one loopback port to another. ``ways``: whether each message went to the target."""

    def __init__(
        self,
        port: int,
        at: int | None = None,
        how: How = How.DROPPED,
        *,
        renaming: bool = False,
    ) -> None:
        self._port = port
        self._renaming = renaming
        self._at = at
        self._how = how
        self._relaying: set[asyncio.Task[None]] = set()
        self._answered = asyncio.Event()
        self._go_on = asyncio.Event()
        self._landed = asyncio.Event()
        self.pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ways: list[bool] = []
        self.cut = asyncio.Event()
        self.reached = asyncio.Event()
        self.port = 0

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        running = asyncio.current_task()
        assert running is not None
        self._relaying.add(running)
        running.add_done_callback(self._relaying.discard)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        passing = [
            asyncio.ensure_future(self._pass(reader, far_writer, to_target=True)),
            asyncio.ensure_future(self._pass(far_reader, writer, to_target=False)),
        ]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in passing:
                each.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
            writer.close()
            far_writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_target: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.cut.is_set():
                    self._answered.set()
                    continue  # nobody is there to read it
                data = self._renamed(data, to_target=to_target)
                self.ways.append(to_target)
                if len(self.ways) == self._at:
                    await self._cut(writer, data)
                    return
                writer.write(data)
                await writer.drain()

    def _renamed(self, data: bytes, *, to_target: bool) -> bytes:
        if not self._renaming:
            return data
        ours, theirs = (b"127.0.0.1:%d" % port for port in (self.port, self._port))
        assert len(ours) == len(theirs), "a message would change its length"
        return data.replace(ours, theirs) if to_target else data.replace(theirs, ours)

    async def _cut(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self._how is How.PASSED:
            writer.write(data)
            await writer.drain()
        if self._how is not How.HELD:
            os.kill(await self.pid, signal.SIGKILL)
            self.cut.set()
        self.reached.set()
        try:
            if self._how in {How.LATE, How.HELD}:
                await self._go_on.wait()
                writer.write(data)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                with contextlib.suppress(TimeoutError):  # half a message is never answered
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        await self._answered.wait()
        finally:
            self._landed.set()

    async def land(self) -> None:
        """Let what is late arrive now, and return when the target has answered it."""
        self.cut.set()
        self._go_on.set()
        if self.reached.is_set():
            await self._landed.wait()

    async def stop(self) -> None:
        """Cut every connection."""
        for each in list(self._relaying):
            each.cancel()
        await asyncio.gather(*self._relaying, return_exceptions=True)


@contextlib.asynccontextmanager
async def cutting(
    port: int, at: int | None = None, how: How = How.DROPPED, *, renaming: bool = False
) -> AsyncIterator[Cutting]:
    """Relay to a loopback port while the block runs.

    ``renaming``: a server that names itself by the address it is asked at is asked at its own.
    """
    made = Cutting(port, at, how, renaming=renaming)
    server = await asyncio.start_server(made.relay, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.stop()
        await server.wait_closed()


def abandoned(port: int) -> int:
    """Count the connections of a server on a loopback port whose far end is gone (proc(5))."""
    found = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, near, _, state = line.split()[:4]
            found += int(near.rpartition(":")[2], 16) == port and state not in _NOT_ABANDONED
    return found


async def left_alone(port: int) -> None:
    """Return when a server is done with everything that those who are dead by now had sent it."""
    async with asyncio.timeout(60):
        while abandoned(port):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)
