"""uvicorn's HTTP protocol with bounds: on a head, on the time for head and body, on connections.

uvicorn bounds neither a head's size nor the time a client may take for it (its
``h11_max_incomplete_event_size`` is for its other parser), so that a few clients that send a byte a
minute, or a header without an end, would keep a port from everybody else. What is refused here is
refused before any application hears of it, as JSON and with a clear status, and the connection ends.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

LINGER_SECONDS = 1.0
_LINGER_BYTES = 4 * 1024 * 1024
_PIPELINED = 8
_FRAMING = 16


class BoundedHttp(HttpToolsProtocol):
    """Serve with ``http=BoundedHttp`` and ``limit_concurrency=`` the most connections at once.

    A head takes at most ``head_bytes`` (431) and ``head_seconds`` (408). A body has ``body_seconds``
    and a second more for every ``body_rate`` bytes of it that came (408); what a chunked body's
    framing and trailers may take is bounded by what it carries. Trailers are dropped: they are no
    headers (RFC 9110 section 6.5.1). One connection more than allowed is told so (503).
    """

    head_bytes = 64 * 1024
    head_seconds = 10.0
    body_seconds = 30.0
    body_rate = 16 * 1024

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._in_head = True
        self._begun = False
        self._finished = False
        self._fed = 0
        self._carried = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timed: str | None = None
        self._since = 0.0
        self._dropped: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it as well
        """Count the connection in, and start its clock."""
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            self._answer(503, "too_many_connections", "too many connections are open: try later")
            transport.close()
        else:
            self._time("head")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop its clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed no more of a head than there is room for, and see what is still to come."""
        if self._dropped is not None:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                self.transport.abort()
            return
        while data and not self._over:
            room = self.head_bytes - self._fed if self._in_head else len(data)
            part, data = data[:room], data[room:]
            self._finished = False
            self._fed += len(part)
            super().data_received(part)
            if self._dropped is None:
                self._weigh()

    @property
    def _over(self) -> bool:
        return self._dropped is not None or self.transport.is_closing()

    def _unsupported_upgrade_warning(self) -> None:
        """Serve the request as if it asked for no upgrade, and then end the connection."""
        if not self._over:
            self._dropped = 0
            self.cycle.keep_alive = False
            self._stop_clock()

    def _weigh(self) -> None:
        if self._in_head:
            if self._fed >= self.head_bytes:
                self._refuse(431, "head_too_large", f"a head takes {self.head_bytes} bytes at most")
            elif self._finished and not self._begun:
                self._stop_clock()
            else:
                self._time("head")
        elif self._fed > self.head_bytes + _FRAMING * self._carried:
            self._refuse(400, "bad_request", "the body is framing and hardly anything else")
        else:
            self._time("body")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, and no trailer for one."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless too many wait for their turn on this connection."""
        if len(self.pipeline) >= _PIPELINED:
            self.transport.abort()
            return
        if self.parser.should_upgrade() and any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in self.headers
        ):
            # The parser takes what follows for another protocol, and never gives us this body.
            self._refuse(400, "bad_request", "nothing is upgraded here: send no upgrade header")
            return
        super().on_headers_complete()
        self._in_head, self._fed, self._carried = False, 0, 0

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._carried += len(body)
        if not self._over:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The next head may begin."""
        if not self._over:
            super().on_message_complete()
        self._in_head, self._begun, self._finished, self._fed = True, False, True, 0

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as everything else is answered."""
        self._refuse(400, "bad_request", msg.rstrip(".").lower())

    def _time(self, what: str) -> None:
        if self._timed == what:
            return
        self._stop_clock()
        self._timed, self._since = what, self.loop.time()
        if what == "head":
            self._timer = self.loop.call_later(self.head_seconds, self._head_due)
        else:
            self._timer = self.loop.call_later(self.body_seconds, self._body_due)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timed = None

    def _head_due(self) -> None:
        if self._fed == 0 and not self._begun:
            self.transport.close()
        elif self.cycle is not None and not self.cycle.response_complete:
            # An earlier request is still being answered: the connection ends with its answer.
            self.cycle.keep_alive = False
        else:
            self._refuse(408, "timeout", f"the head did not come within {self.head_seconds:g} s")

    def _body_due(self) -> None:
        allowed = self.body_seconds + self._carried / self.body_rate
        left = self._since + allowed - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._body_due)
        else:
            self._refuse(408, "timeout", "the body came too slowly")

    def _refuse(self, status: int, code: str, words: str) -> None:
        """Answer where an answer is still possible, and end the connection."""
        if self._dropped is not None:
            return
        cycle = self.cycle
        if self._in_head:
            answerable = cycle is None or cycle.response_complete
        else:
            answerable = not self.pipeline and not cycle.response_started
        self._stop_clock()
        if not answerable or self.transport.is_closing():
            self.transport.close()
            return
        if not self._in_head:
            cycle.disconnected = True
            cycle.message_event.set()
        self._answer(status, code, words)
        self._dropped = 0
        if self.transport.can_write_eof():
            # Closed at once, the client's unread bytes would reset it before it read the answer.
            self.transport.write_eof()
            self.flow.resume_reading()
            self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()

    def _answer(self, status: int, code: str, words: str) -> None:
        body = msgspec.json.encode({"error": {"code": code, "message": words}})
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
