"""Carries an upstream's answer to the client, and holds the final response back where it must.

Nobody hears success before the outcome is durable (promise 2), so the last message of a governed
call waits; progress, logs and questions to the client go on at once. In the 2025 era a server may
end a call's stream and let the client fetch the rest on another (``Last-Event-ID``): the final
response is then held back there (:class:`Pending`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec

from remit.gateway.messages import INTERNAL_ERROR, Peek, RequestId, peek, rpc_error
from remit.gateway.reply import Headers, Reply
from remit.gateway.sse import Clean, Event, EventReader, event_bytes, told
from remit.gateway.upstream import Answer, content_type
from remit.model.errors import InputError, UpstreamError

_TAIL_SECONDS = 0.25
_SHOWN = 64
SSE = b"text/event-stream"


def as_it_is(data: bytes) -> bytes:
    """Change nothing: what a message goes through where no credential is alive."""
    return data


@dataclass(slots=True)
class Held:
    """The final response, not yet told: ``data`` is its JSON, ``raw`` what goes on the wire."""

    status: int
    headers: Headers
    data: bytes = field(repr=False)
    raw: bytes = field(repr=False)
    stream: bool = False

    async def release(self, reply: Reply) -> None:
        """Tell the client."""
        if reply.ended:
            return
        if not self.stream:
            await reply.whole(self.status, self.headers, self.raw)
            return
        if not reply.started:
            await reply.start(self.status, self.headers)
        await reply.end(self.raw)

    def replaced(self, data: bytes) -> Held:
        """Return the same response with another message in it."""
        raw = event_bytes(data) if self.stream else data
        return Held(self.status, self.headers, data, raw, self.stream)


async def hold(
    answer: Answer, reply: Reply, max_bytes: int, seen: Seen, clean: Clean = as_it_is
) -> Held | None:
    """Stream what precedes the final response, and return that one untold.

    Returns:
        None where the stream ended without it but may be resumed elsewhere; the client's stream
        has then been ended as well.

    Raises:
        UpstreamError: it broke off, or sent what cannot be read.
    """
    headers = _told_headers(answer.headers, clean)
    if content_type(headers) != SSE:
        body = await whole(answer, max_bytes)
        return Held(answer.status, headers, body, body)
    reader = EventReader(max_bytes)
    async for chunk in answer.chunks():
        events = list(reader.feed(chunk))
        for position, event in enumerate(events):
            if _final(event):
                later = b"".join(told(each, clean) for each in events[position + 1 :])
                after = later + clean(reader.rest)
                await _drain(answer)
                return Held(answer.status, headers, event.data, event.raw + after, True)
            seen.resumable = seen.resumable or bool(event.id)
            if not reply.started:
                await reply.start(answer.status, headers)
            await reply.chunk(told(event, clean))
    if not seen.resumable:
        raise UpstreamError("the upstream ended its answer without a response")
    # What is left is no event: it has no end, and nobody may take it for the response.
    await reply.end()
    return None


@dataclass(slots=True)
class Seen:
    """What was seen of a stream so far: with event ids it can be resumed on another."""

    resumable: bool = False


async def pass_on(answer: Answer, reply: Reply, max_bytes: int, clean: Clean = as_it_is) -> None:
    """Forward an answer's bytes: a stream as it comes, anything else when it is whole.

    Raises:
        UpstreamError: the upstream broke off.
    """
    headers = _told_headers(answer.headers, clean)
    if content_type(headers) != SSE:
        await reply.whole(answer.status, headers, clean(await whole(answer, max_bytes)))
        return
    await reply.start(answer.status, headers)
    reader = EventReader(max_bytes)
    async for chunk in answer.chunks():
        if clean is as_it_is:
            await reply.chunk(chunk)
            continue
        for event in reader.feed(chunk):
            await reply.chunk(told(event, clean))
    await reply.end(clean(reader.rest))


def _told_headers(headers: Headers, clean: Clean) -> Headers:
    """Return an answer's headers without the credentials in them."""
    values = b"\n".join(value for _, value in headers)
    if clean is as_it_is or clean(values) == values:
        return headers
    return [(name, clean(value)) for name, value in headers]


async def _drain(answer: Answer) -> None:
    """Let the upstream end its stream by itself, so that the connection can be used again."""
    try:
        async with asyncio.timeout(_TAIL_SECONDS):
            async for _ in answer.chunks():
                pass
    except (TimeoutError, UpstreamError):
        return


async def whole(answer: Answer, max_bytes: int) -> bytes:
    """Read an answer's body to its end. Raises UpstreamError past ``max_bytes`` bytes."""
    body = bytearray()
    async for chunk in answer.chunks():
        body += chunk
        if len(body) > max_bytes:
            raise UpstreamError(f"the upstream answered with more than {max_bytes} bytes")
    return bytes(body)


def _final(event: Event) -> bool:
    return bool(event.data) and peek(event.data).final


@dataclass(slots=True)
class Waiting:
    """A governed call of the 2025 era, whose final response may come on another stream.

    ``instead`` replaces that response where the outcome could not be made durable.
    """

    found: asyncio.Future[bytes]
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    instead: bytes | None = None


class Pending:
    """The governed calls in flight in sessions, by upstream, session and request id."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str, RequestId], Waiting] = {}

    def expect(self, upstream: str, session: str, request_id: RequestId) -> Waiting:
        """Begin to hold back the response to a request on every stream of its session.

        Raises:
            InputError: a request with this id is in flight already.
        """
        key = (upstream, session, request_id)
        if key in self._waiting:
            shown = str(request_id)[:_SHOWN]
            raise InputError(f"a request with the id `{shown}` is in flight in this session")
        waiting = Waiting(asyncio.get_running_loop().create_future())
        self._waiting[key] = waiting
        return waiting

    def settle(
        self, upstream: str, session: str, request_id: RequestId, instead: bytes | None = None
    ) -> None:
        """Let a held response go, or ``instead`` in its place: how the call ended is durable."""
        waiting = self._waiting.pop((upstream, session, request_id), None)
        if waiting is not None:
            waiting.instead = instead
            waiting.settled.set()

    async def pass_on(
        self,
        answer: Answer,
        reply: Reply,
        upstream: str,
        session: str,
        max_bytes: int,
        *,
        clean: Clean = as_it_is,
    ) -> None:
        """Forward another answer in a session, holding back the responses that are waited for.

        A listing of tools is never let through here, where it would not be cut.

        Raises:
            UpstreamError: the upstream broke off, or sent what cannot be read.
        """
        headers = _told_headers(answer.headers, clean)
        if content_type(headers) != SSE:
            body = await whole(answer, max_bytes)
            instead = await self._instead(body, upstream, session)
            told_whole = clean(body) if instead is None else instead
            await reply.whole(answer.status, headers, told_whole)
            return
        await reply.start(answer.status, headers)
        reader = EventReader(max_bytes)
        async for chunk in answer.chunks():
            for event in reader.feed(chunk):
                instead = await self._instead(event.data, upstream, session)
                await reply.chunk(told(event, clean) if instead is None else event_bytes(instead))
        await reply.end()

    async def _instead(self, data: bytes, upstream: str, session: str) -> bytes | None:
        """Wait until a message may be told; return what to tell in its place, if anything."""
        if data.lstrip()[:1] not in {b"{", b"["}:
            # Not a message: a ping of the server's own making, say.
            return None
        # A batch cannot be read, and is an error: it might hold what is waited for.
        message = peek(data)
        if not message.final or not message.id:
            return None
        known = msgspec.json.decode(message.id)
        if not isinstance(known, str | int):
            return None
        waiting = self._waiting.get((upstream, session, known))
        if waiting is None:
            if _lists_tools(message):
                return rpc_error(known, INTERNAL_ERROR, "a listing is not resumed: list again")
            return None
        if not waiting.found.done():
            waiting.found.set_result(data)
        await waiting.settled.wait()
        return waiting.instead


def _lists_tools(message: Peek) -> bool:
    try:
        return "tools" in msgspec.json.decode(message.result or b"{}", type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return False
