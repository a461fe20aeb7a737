"""Server-sent events, cut into blocks without changing a byte (WHATWG HTML 9.2.5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from remit.model.errors import UpstreamError

Clean = Callable[[bytes], bytes]
"""Takes out of a message what nobody may see; the same object where there is nothing."""

_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_BLANK_LINE_BYTES = 4
_MARK = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """One block of the stream: ``raw`` is forwarded, ``data`` is read. ``id`` allows resuming."""

    raw: bytes = field(repr=False)
    data: bytes = field(repr=False)
    id: bytes | None


class EventReader:
    """Cuts chunks into events. Feed it; it yields every event that is complete."""

    def __init__(self, max_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes
        self._searched = 0
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that ``chunk`` completes.

        Raises:
            UpstreamError: an event grows beyond the limit.
        """
        self._buffer += chunk
        if not self._begun:
            if _MARK.startswith(self._buffer):
                return
            # A reader drops it (WHATWG HTML 9.2.6): the first event is one to it, with or without.
            self._begun = True
            if self._buffer.startswith(_MARK):
                del self._buffer[: len(_MARK)]
        while (end := _BLANK_LINE.search(self._buffer, self._searched)) is not None:
            raw = bytes(self._buffer[: end.end()])
            del self._buffer[: end.end()]
            self._searched = 0
            yield _event(raw)
        # What was searched is not searched again, however small the chunks are.
        self._searched = max(0, len(self._buffer) - _BLANK_LINE_BYTES + 1)
        if len(self._buffer) > self._max_bytes:
            raise UpstreamError(f"the upstream sent an event of more than {self._max_bytes} bytes")

    @property
    def rest(self) -> bytes:
        """What came after the last complete event."""
        return bytes(self._buffer)


def _event(raw: bytes) -> Event:
    data: list[bytes] = []
    event_id: bytes | None = None
    for line in _LINE_END.split(raw):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"id":
            event_id = value
    return Event(raw, b"\n".join(data), event_id)


def event_bytes(data: bytes) -> bytes:
    """Return a JSON text without line breaks as one ``message`` event."""
    return b"event: message\r\ndata: " + data + b"\r\n\r\n"


def told(event: Event, clean: Clean) -> bytes:
    """Return an event as it goes on: its own bytes, unless ``clean`` changes its data."""
    data = clean(event.data)
    if data is event.data:
        return event.raw
    resumable = b"" if event.id is None else b"id: " + event.id + b"\r\n"
    return resumable + event_bytes(data)
