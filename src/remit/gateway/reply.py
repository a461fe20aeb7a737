"""The answer to one client, over ASGI: whole, or a stream once something had to go out early."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from remit.gateway.sse import event_bytes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = list[tuple[bytes, bytes]]

JSON: Headers = [(b"content-type", b"application/json")]
STREAM: Headers = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Reply:
    """One HTTP answer. It is started once and ended once, whoever does it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.ended = False
        self._stream = False

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a body that is complete."""
        self.started = True
        self.ended = True
        length = (b"content-length", str(len(body)).encode())
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, length]}
        )
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of a stream."""
        self.started = True
        self._stream = any(k == b"content-type" and v.startswith(STREAM[0][1]) for k, v in headers)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def chunk(self, data: bytes) -> None:
        """Send a piece of a started stream at once."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """End a started stream."""
        if not self.ended:
            self.ended = True
            await self._send({"type": "http.response.body", "body": data})

    async def message(self, status: int, body: bytes) -> None:
        """Answer with one JSON-RPC message: as the body, or as the last event of a stream."""
        if not self.started:
            await self.whole(status, JSON, body)
        else:
            await self.end(event_bytes(body) if self._stream else b"")
