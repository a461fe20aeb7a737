"""A relay that loses answers: what is sent arrives, and nobody hears of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Lossy:
    """Relays one loopback port to another. ``losing``: the next answers go nowhere."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._relaying: set[asyncio.Task[None]] = set()
        self.losing = False
        self.lost = asyncio.Event()
        self.port = 0

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; the far end never learns that the near end has gone."""
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        running = asyncio.current_task()
        assert running is not None
        self._relaying.add(running)
        running.add_done_callback(self._relaying.discard)
        try:
            await asyncio.gather(self._there(reader, far_writer), self._back(far_reader, writer))
        finally:
            writer.close()
            far_writer.close()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.losing:
                    self.lost.set()
                else:
                    writer.write(data)

    async def stop(self) -> None:
        """Cut every connection."""
        for each in list(self._relaying):
            each.cancel()
        await asyncio.gather(*self._relaying, return_exceptions=True)


@contextlib.asynccontextmanager
async def lossy(port: int) -> AsyncIterator[Lossy]:
    """Relay to a loopback port while the block runs."""
    made = Lossy(port)
    server = await asyncio.start_server(made.relay, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.stop()
        await server.wait_closed()
