"""Many HTTP requests over one process's pipes: which line belongs to whom.

A pipe that serves one session of the 2025 era carries ids as they are. One that serves the
stateless requests of a workload gives each request an id and a progress token of its own, since
two clients may well choose the same; nothing but these is changed, and answers get them back.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from remit.gateway.forward import UnreachableError
from remit.gateway.messages import Peek
from remit.gateway.options import UpstreamOptions
from remit.gateway.process import NOTHING, Given, UpstreamProcess
from remit.gateway.wire import Message
from remit.model.errors import UpstreamError

log = structlog.get_logger()

_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
_BACKLOG = 256
_MAX_UNREAD = 4096
_SHOWN = 64
_BREAK = re.compile(rb"[\n\r]|\xc2\x85|\xe2\x80[\xa8\xa9]")

_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
_peek = msgspec.json.Decoder(Peek)
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True, eq=False)
class Lane:
    """What came for one request; ``lines`` ends with the response, or with an error."""

    id: Any
    lines: asyncio.Queue[bytes | UpstreamError] = field(default_factory=asyncio.Queue)
    done: bool = False
    token: Any = None
    wire_id: Any = None
    wire_token: Any = None


class Pipe:
    """One process and the requests in flight in it."""

    def __init__(
        self, options: UpstreamOptions, owner: str, *, shared: bool, given: Given = NOTHING
    ) -> None:
        self.owner = owner
        self._given = given
        self._options = options
        self._shared = shared
        self._process: UpstreamProcess | None = None
        self._lanes: dict[Any, Lane] = {}
        self._tokens: dict[Any, Lane] = {}
        self._number = 0
        self.aside: deque[bytes] = deque(maxlen=_BACKLOG)
        self.aside_there = asyncio.Event()
        self.ended = asyncio.Event()
        self.answered = False
        self.stopping = False
        self.counted = False
        self._deaf = False
        self.touched = asyncio.get_running_loop().time()
        self.on_end: Callable[[Pipe], None] = lambda _: None
        self.rename: Callable[[Pipe, bytes], bytes] | None = None

    async def start(self) -> None:
        """Start the process.

        Raises:
            UnreachableError: it cannot be started.
        """
        self._process = await UpstreamProcess.start(
            self._options, self._take, self._end, self._given
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.alive

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self._lanes

    def waits_for(self, request_id: Any) -> bool:
        """Whether a request with this id is in flight."""
        return isinstance(request_id, str | int) and request_id in self._lanes

    @property
    def pid(self) -> int | None:
        """The process's id."""
        return None if self._process is None else self._process.pid

    async def stop(self, *, at_once: bool = False) -> None:
        """End the process; what is in flight fails."""
        # What has died, or does not listen, ended by itself, and not because of this.
        self.stopping = self.alive and not self._deaf
        if self._process is not None:
            await self._process.stop(at_once=at_once)

    async def ask(self, message: Message) -> Lane:
        """Send a request; its lane fills with what comes for it.

        Raises:
            UnreachableError: the process has ended.
        """
        lane = Lane(message.id, token=message.meta.get("progressToken"))
        lane.wire_id, lane.wire_token = lane.id, lane.token
        body = message.body
        if self._shared:
            self._number += 1
            lane.wire_id = self._number
            lane.wire_token = None if lane.token is None else self._number
            body = _renumbered(body, self._number, token=lane.token is not None)
        if lane.wire_id in self._lanes:
            shown = str(lane.id)[:_SHOWN]
            raise UpstreamError(f"a request with the id `{shown}` is in flight in this session")
        self._lanes[lane.wire_id] = lane
        if lane.wire_token is not None:
            self._tokens[lane.wire_token] = lane
        try:
            await self.tell(body)
        except BaseException:
            self._drop(lane)
            raise
        return lane

    async def tell(self, body: bytes) -> None:
        """Send a message as one line, whatever its reader takes for a line's end.

        An ASCII line break in JSON is white space: strings hold none. Others stand in strings, and
        are escaped: a reader that broke a line there would find a message that nobody decided.

        Raises:
            UnreachableError: the process has ended.
        """
        if self._process is None:
            raise UnreachableError(f"upstream `{self._options.name}` has ended")
        self.touched = asyncio.get_running_loop().time()
        try:
            await self._process.write(_BREAK.sub(_unbroken, body))
        except UnreachableError:
            self._deaf = True
            raise

    async def leave(self, lane: Lane) -> None:
        """Say that nobody waits for a request any more; one that runs is cancelled."""
        if lane.done:
            return
        self._drop(lane)
        if self.alive:
            params = {"requestId": lane.wire_id, "reason": "the client went away"}
            cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            try:
                await self.tell(_encode(cancelled))
            except UnreachableError:
                return

    def _drop(self, lane: Lane) -> None:
        lane.done = True
        self._lanes.pop(lane.wire_id, None)
        if lane.wire_token is not None:
            self._tokens.pop(lane.wire_token, None)

    def _end(self, code: int | None) -> None:
        error = UpstreamError(
            f"upstream `{self._options.name}` ended (exit code {code}) before it answered"
        )
        for lane in list(self._lanes.values()):
            self._drop(lane)
            lane.lines.put_nowait(error)
        self.ended.set()
        self.aside_there.set()
        self.on_end(self)

    def _take(self, line: bytes) -> None:
        """Give one line of the process to the lane that it is for."""
        try:
            message = _peek.decode(line)
            known = msgspec.json.decode(message.id) if message.id else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.warning("upstream printed what is no message", upstream=self._options.name)
            return
        if message.final:
            lane = self._lanes.get(known) if isinstance(known, str | int) else None
            if lane is None:
                log.debug("an answer came that nobody waits for", upstream=self._options.name)
                return
            self.answered = True
            self._drop(lane)
            lane.lines.put_nowait(self._restored(line, lane, final=True))
            return
        lane = self._lane_for(line)
        if self.rename is not None:
            line = self.rename(self, line)
        if lane is not None:
            if lane.lines.qsize() >= _MAX_UNREAD:
                self._drop(lane)
                lane.lines.put_nowait(UpstreamError("the client does not read what it asked for"))
                return
            lane.lines.put_nowait(self._restored(line, lane))
        elif not self._shared:
            self.aside.append(line)
            self.aside_there.set()

    def _lane_for(self, line: bytes) -> Lane | None:
        """Return the request that a line is about.

        One that names none goes to the youngest in flight, or, where the pipe is shared, nowhere
        unless there is only one: it must not reach another client.
        """
        params = msgspec.json.decode(line).get("params")
        params = params if isinstance(params, dict) else {}
        token = params.get("progressToken")
        meta = params.get("_meta")
        subscription = meta.get(_SUBSCRIPTION) if isinstance(meta, dict) else None
        if isinstance(token, str | int) and token in self._tokens:
            return self._tokens[token]
        if isinstance(subscription, str | int) and subscription in self._lanes:
            return self._lanes[subscription]
        lanes = list(self._lanes.values())
        if self._shared:
            return lanes[0] if len(lanes) == 1 else None
        return lanes[-1] if lanes else None

    def _restored(self, line: bytes, lane: Lane, *, final: bool = False) -> bytes:
        """Give the client's own id, progress token and subscription back."""
        if not self._shared:
            return line
        whole = _raw.decode(line)
        if final:
            whole["id"] = msgspec.Raw(_encode(lane.id))
        part = "result" if final else "params"
        try:
            inner = _raw.decode(whole[part])
            if not final and "progressToken" in inner and lane.token is not None:
                inner["progressToken"] = msgspec.Raw(_encode(lane.token))
            meta = _raw.decode(inner["_meta"]) if "_meta" in inner else {}
        except (KeyError, msgspec.DecodeError):
            return _encode(whole)
        if _SUBSCRIPTION in meta:
            meta[_SUBSCRIPTION] = msgspec.Raw(_encode(lane.id))
            inner["_meta"] = msgspec.Raw(_encode(meta))
        whole[part] = msgspec.Raw(_encode(inner))
        return _encode(whole)


def _unbroken(found: re.Match[bytes]) -> bytes:
    character = found[0].decode()
    return b" " if character in "\n\r" else b"\\u%04x" % ord(character)


def _renumbered(body: bytes, number: int, *, token: bool) -> bytes:
    """Return the message with another id and progress token; the rest keeps its bytes."""
    whole = _raw.decode(body)
    whole["id"] = msgspec.Raw(_encode(number))
    if token:
        params = _raw.decode(whole["params"])
        meta = _raw.decode(params["_meta"])
        meta["progressToken"] = msgspec.Raw(_encode(number))
        params["_meta"] = msgspec.Raw(_encode(meta))
        whole["params"] = msgspec.Raw(_encode(params))
    return _encode(whole)
