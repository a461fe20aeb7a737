"""A forwarder that adds headers to every request, and changes nothing else.

The conformance suite sends no token, and the product has no unauthenticated mode for the sake of a
test; so the harness puts this in between. It works on bytes: a request's head goes on as it came,
with the added lines before its end, bodies and answers are copied as they arrive, and an end that
goes away closes the other. Host, Origin, white space, streams and statuses are what the suite sent
and what the gateway answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

_HEAD_BYTES = 65_536
_CHUNK_BYTES = 65_536


class Forwarder:
    """Listens on ``127.0.0.1``; sends everything to ``127.0.0.1:to_port`` with ``headers`` added."""

    def __init__(self, to_port: int, headers: Mapping[str, str]) -> None:
        self._to_port = to_port
        self._added = "".join(f"{k}: {v}\r\n" for k, v in headers.items()).encode()
        self._open: set[asyncio.Task[None]] = set()
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen on a free port while the block runs; yields ``http://127.0.0.1:<port>``."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_HEAD_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            server.close()
            for task in tuple(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            there, back = await asyncio.open_connection(
                "127.0.0.1", self._to_port, limit=_HEAD_BYTES
            )
            try:
                await _first(self._requests(reader, back), _copy(there, writer))
            finally:
                back.close()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _requests(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        """Forward request after request of one connection."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            to.write(head[:-2] + self._added + b"\r\n")
            await to.drain()
            fields = _fields(head)
            if "chunked" in fields.get(b"transfer-encoding", b"").decode().lower():
                await _chunked(reader, to)
            else:
                await _exactly(reader, to, int(fields.get(b"content-length", b"0")))


def _fields(head: bytes) -> dict[bytes, bytes]:
    """Return the header fields of a request's head, names in lower case."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:] if line)
    return {name.strip().lower(): value.strip() for name, _, value in lines}


async def _exactly(reader: asyncio.StreamReader, to: asyncio.StreamWriter, count: int) -> None:
    while count:
        data = await reader.readexactly(min(count, _CHUNK_BYTES))
        count -= len(data)
        to.write(data)
        await to.drain()


async def _chunked(reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    """Forward a chunked body, its trailer included."""
    while True:
        line = await reader.readuntil(b"\r\n")
        to.write(line)
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        await _exactly(reader, to, size + 2)
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        to.write(line)
    to.write(line)
    await to.drain()


async def _copy(reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        to.write(data)
        await to.drain()


async def _first(*ways: object) -> None:
    """Run both directions until one of them ends, then end the other."""
    tasks = [asyncio.ensure_future(way) for way in ways]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
