"""What the processes of one session ask its client, under names that no two of them share.

A session whose calls need a credential has several processes, and each numbers its own questions
(sampling, elicitation, roots). The client sees one server: a question of a process that holds a
credential gets a name of ours, and the client's answer finds its way back by it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from remit.gateway.pipe import Pipe

_MOST = 1024

_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


class Asked:
    """The questions of one session that wait for an answer."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[str, tuple[Pipe, msgspec.Raw]] = {}

    def renamed(self, pipe: Pipe, line: bytes) -> bytes:
        """Return what a process says under names of ours: a question, or that one is over."""
        whole = _raw.decode(line)
        method = msgspec.json.decode(whole.get("method", msgspec.Raw(b"null")))
        if "id" in whole and method is not None:
            self._number += 1
            name = f"remit-{self._number}"
            self._waiting[name] = (pipe, msgspec.Raw(bytes(whole["id"])))
            if len(self._waiting) > _MOST:
                del self._waiting[next(iter(self._waiting))]
            whole["id"] = msgspec.Raw(_encode(name))
            return _encode(whole)
        if method == "notifications/cancelled":
            return self._cancelled(pipe, whole, line)
        return line

    def answered(self, name: Any, body: bytes) -> tuple[Pipe, bytes] | None:
        """Return whom an answer of the client's is for, under the name that it knows."""
        found = self._waiting.pop(name, None) if isinstance(name, str) else None
        if found is None:
            return None
        pipe, own = found
        whole = _raw.decode(body)
        whole["id"] = own
        return pipe, _encode(whole)

    def forget(self, pipe: Pipe) -> None:
        """Drop what an ended process had asked."""
        self._waiting = {k: v for k, v in self._waiting.items() if v[0] is not pipe}

    def _cancelled(self, pipe: Pipe, whole: dict[str, msgspec.Raw], line: bytes) -> bytes:
        try:
            params = _raw.decode(whole["params"])
            own = msgspec.json.decode(params["requestId"])
        except (KeyError, msgspec.DecodeError):
            return line
        for name, (asker, known) in self._waiting.items():
            if asker is pipe and msgspec.json.decode(known) == own:
                del self._waiting[name]
                params["requestId"] = msgspec.Raw(_encode(name))
                whole["params"] = msgspec.Raw(_encode(params))
                return _encode(whole)
        return line
