"""The answers that a process's lines become: whole, or a stream kept alive while a call takes time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS

from remit.gateway.messages import Peek, peek
from remit.gateway.pipe import Lane, Pipe
from remit.gateway.reply import JSON, STREAM, Headers
from remit.gateway.sse import event_bytes
from remit.model.errors import UpstreamError

_PING_SECONDS = 15.0
_PING = b": ping\r\n\r\n"


class Whole:
    """An answer that is complete."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        if self._body:
            yield self._body

    async def close(self) -> None:
        """Nothing is held."""


class Laned:
    """An answer that comes over a pipe: JSON if the response comes first and soon, else a stream.

    So a refusal keeps the status that its code stands for, and a call that takes its time, or has
    something to say before it ends, keeps the connection alive.
    """

    def __init__(
        self,
        pipe: Pipe,
        lane: Lane,
        headers: Headers,
        seconds: float | None,
        name: str,
        *,
        modern: bool,
    ) -> None:
        self.status = 200
        self.headers = [*STREAM, *headers]
        self._extra = headers
        self._pipe = pipe
        self._lane = lane
        self._seconds = seconds
        self._name = name
        self._modern = modern
        self._first: bytes | None = None
        self._whole = False

    async def begin(self) -> None:
        """Wait for the first line, or for long enough that the stream has to begin without it.

        Raises:
            UpstreamError: the process ended first.
        """
        self._first = await self._next()
        if self._first is None or not self._lane.done or not self._lane.lines.empty():
            return
        message = peek(self._first)
        if message.final:
            self._whole = True
            self.headers = [*JSON, *self._extra]
            self.status = _status(message) if self._modern else 200

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the response, or the events up to it.

        Raises:
            UpstreamError: the process ended, or fell silent for too long.
        """
        line, self._first = self._first, None
        if self._whole:
            if line is not None:
                yield line
            return
        silent = _PING_SECONDS
        while True:
            if line is None:
                if self._lane.done and self._lane.lines.empty():
                    return
                yield _PING
                silent += _PING_SECONDS
            else:
                yield event_bytes(line)
                silent = 0.0
                if self._lane.done and self._lane.lines.empty():
                    return
            if self._seconds is not None and silent >= self._seconds:
                raise UpstreamError(f"upstream `{self._name}` fell silent")
            line = await self._next()

    async def _next(self) -> bytes | None:
        limit = _PING_SECONDS if self._seconds is None else min(_PING_SECONDS, self._seconds)
        try:
            async with asyncio.timeout(limit):
                line = await self._lane.lines.get()
        except TimeoutError:
            return None
        if isinstance(line, UpstreamError):
            raise line
        return line

    async def close(self) -> None:
        """Let go; a request that still runs is cancelled."""
        await self._pipe.leave(self._lane)


class Aside:
    """A session's stream of what belongs to no request."""

    status = 200

    def __init__(self, pipe: Pipe, headers: Headers, done: Callable[[], None]) -> None:
        self.headers = [*STREAM, *headers]
        self._pipe = pipe
        self._done = done

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield events until the session ends."""
        pipe = self._pipe
        while not pipe.ended.is_set():
            while pipe.aside:
                yield event_bytes(pipe.aside.popleft())
            pipe.aside_there.clear()
            try:
                async with asyncio.timeout(_PING_SECONDS):
                    await pipe.aside_there.wait()
            except TimeoutError:
                yield _PING

    async def close(self) -> None:
        """Let another stream take its place."""
        self._done()


class _Code(msgspec.Struct):
    code: int = 0


def _status(message: Peek) -> int:
    if not message.error:
        return 200
    try:
        code = msgspec.json.decode(message.error, type=_Code).code
    except msgspec.ValidationError:
        return 200
    return ERROR_CODE_HTTP_STATUS.get(code, 200)
