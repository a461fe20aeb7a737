"""Whose the long-running tasks of an upstream are: a handle is good for the workload it was given to.

The upstream sees one client, the gateway, and cannot tell workloads apart. So a handle that comes
with the answer to a governed call (MCP 2025-11-25 utilities/tasks; the tasks extension of
2026-07-28) is bound to the caller, as a session is, and is authority for nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from remit.gateway.messages import INVALID_PARAMS, peek
from remit.gateway.wire import Message, ProtocolError
from remit.model.errors import UpstreamError

ABOUT_ONE = frozenset({"tasks/get", "tasks/result", "tasks/update", "tasks/cancel"})
LIST = "tasks/list"
OLDER = frozenset({LIST, "tasks/result"})
"""What the newer era took away; an upstream that still answers it would not know whom."""

_LIMIT = 10_000

_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Task(msgspec.Struct, rename="camel"):
    task_id: str = ""


class _Made(msgspec.Struct, rename="camel"):
    """The older era nests the task in the result, the newer one does not."""

    task_id: str = ""
    task: _Task = msgspec.field(default_factory=_Task)


class _Listed(msgspec.Struct):
    tasks: list[msgspec.Raw] = msgspec.field(default_factory=list)


@dataclass(slots=True)
class Handles:
    """The handles given out since the gateway started; the oldest are forgotten first."""

    limit: int = _LIMIT
    _owners: OrderedDict[tuple[str, str], str] = field(default_factory=OrderedDict)

    def note(self, upstream: str, owner: str, response: bytes) -> None:
        """Bind the handle that a response to a call of ``owner`` brings, if it brings one."""
        if b"askId" not in response:
            return
        try:
            made = msgspec.json.decode(peek(response).result or b"{}", type=_Made)
        except (msgspec.DecodeError, UpstreamError):
            return
        handle = made.task.task_id or made.task_id
        if handle:
            # The first owner keeps it: an upstream that gives it away twice gives it to nobody else.
            self._owners.setdefault((upstream, handle), owner)
            while len(self._owners) > self.limit:
                self._owners.popitem(last=False)

    def require(self, upstream: str, owner: str, message: Message) -> None:
        """Refuse a request about a task that is not this caller's.

        Raises:
            ProtocolError: it is not, or there is none: the two look the same (-32602).
        """
        handle = message.params.get("taskId")
        known = self._owners.get((upstream, handle)) if isinstance(handle, str) else None
        if known is None or known != owner:
            raise ProtocolError(
                "there is no such task",
                code=INVALID_PARAMS,
                http_status=400 if message.modern else 200,
                request_id=message.id,
            )

    def cut(self, upstream: str, owner: str, response: bytes) -> bytes:
        """Return a listing of tasks with this caller's alone.

        Raises:
            UpstreamError: it cannot be read.
        """
        try:
            whole = _raw_object.decode(response)
            if "result" not in whole:
                return response
            result = _raw_object.decode(whole["result"])
            tasks = msgspec.json.decode(whole["result"], type=_Listed).tasks
            kept = [each for each in tasks if self._owner_of(upstream, each) == owner]
        except msgspec.DecodeError as error:
            raise UpstreamError(
                f"upstream `{upstream}` sent a listing that cannot be read"
            ) from error
        result["tasks"] = msgspec.Raw(msgspec.json.encode(kept))
        whole["result"] = msgspec.Raw(msgspec.json.encode(result))
        return msgspec.json.encode(whole)

    def _owner_of(self, upstream: str, task: msgspec.Raw) -> str | None:
        return self._owners.get((upstream, msgspec.json.decode(task, type=_Task).task_id))
