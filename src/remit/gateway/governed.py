"""The three methods that act, or read for the agent: each becomes a Call and goes by the spine."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import rfc8785

from remit.gateway.forward import UnreachableError
from remit.gateway.messages import GOVERNED, INVALID_PARAMS, Peek, peek
from remit.gateway.options import UpstreamOptions
from remit.gateway.relay import Held
from remit.gateway.wire import Head, Message, ProtocolError
from remit.model.call import Call
from remit.model.errors import UpstreamError
from remit.model.label import Label
from remit.model.outcome import Ending, Outcome

_MAX_NAME = 2048
_NO_URI = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


def call_of(head: Head, message: Message, upstream: str, call_id: str) -> Call:
    """Return the call that a governed message asks for.

    Raises:
        ProtocolError: the target or the arguments are not what the method takes (-32602).
    """
    action, key = GOVERNED[message.method]
    name = message.params.get(key)
    if not isinstance(name, str) or not name:
        raise ProtocolError(
            f"`params.{key}` has to be a string", code=INVALID_PARAMS, request_id=message.id
        )
    if len(name) > _MAX_NAME or (key == "uri" and _NO_URI.search(name)):
        # Some readers of URIs drop tabs and line breaks, and `.<tab>.` becomes a way up.
        rule = f"has at most {_MAX_NAME} characters, and a uri neither white space nor controls"
        raise ProtocolError(f"`params.{key}` {rule}", code=INVALID_PARAMS, request_id=message.id)
    arguments = message.params.get("arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ProtocolError(
            "`params.arguments` has to be an object", code=INVALID_PARAMS, request_id=message.id
        )
    target = f"{upstream}/{name}"
    return Call(
        id=call_id,
        action=action,
        upstream=upstream,
        name=name,
        arguments=arguments,
        digest=digest_of(action, target, arguments),
        trace=_trace(head, message),
    )


def digest_of(action: str, target: str, arguments: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the RFC 8785 form of the action, its target and its arguments."""
    canonical = rfc8785.dumps({"action": action, "target": target, "arguments": dict(arguments)})
    return hashlib.sha256(canonical).hexdigest()


def _trace(head: Head, message: Message) -> str | None:
    """W3C Trace Context: from ``_meta`` (MCP 2026-07-28), else from the header."""
    for found in (message.meta.get("traceparent"), head.one(b"traceparent")):
        if isinstance(found, str) and _TRACEPARENT.match(found):
            return found
    return None


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long ago that was."""
        return time.monotonic() - self._began


def outcome_of(held: Held, call: Call, options: UpstreamOptions, seconds: float) -> Outcome:
    """Return how the call ended, from the final response.

    A tool's own ``isError``, a JSON-RPC error and an HTTP error are failures; a question to the
    client (``input_required``) or a task handle is an answer. The response is forwarded either way.
    """
    ending, detail = Ending.SUCCEEDED, None
    try:
        message = peek(held.data)
        ending, detail = _ending(message)
    except UpstreamError:
        ending, detail = Ending.FAILED, "unreadable answer"
    if ending is Ending.SUCCEEDED and held.status >= 400:  # noqa: PLR2004 - HTTP's classes
        ending, detail = Ending.FAILED, f"http {held.status}"
    return Outcome(
        ending=ending,
        target=call.target,
        seconds=seconds,
        detail=detail,
        label=Label(trusted=options.trusted),
        result=held.data,
    )


class _Result(msgspec.Struct, rename="camel"):
    is_error: bool = False
    result_type: str = "complete"


class _Error(msgspec.Struct):
    code: int = 0


def _ending(message: Peek) -> tuple[Ending, str | None]:
    try:
        if message.error:
            return (
                Ending.FAILED,
                f"rpc_error {msgspec.json.decode(message.error, type=_Error).code}",
            )
        if not message.result:
            return Ending.FAILED, "unreadable answer"
        result = msgspec.json.decode(message.result, type=_Result)
    except msgspec.ValidationError:
        return Ending.FAILED, "unreadable answer"
    if result.is_error:
        return Ending.FAILED, "tool_error"
    if result.result_type != "complete":
        return Ending.SUCCEEDED, result.result_type[:64]
    return Ending.SUCCEEDED, None


def lost(error: Exception, call: Call, options: UpstreamOptions, seconds: float) -> Outcome:
    """Return the outcome of a call that was sent and whose answer never came: it may have acted.

    Raises:
        UpstreamError: the request was certainly not delivered, so the call failed and did nothing.
    """
    if isinstance(error, UnreachableError):
        raise error
    return Outcome(
        ending=Ending.UNKNOWN,
        target=call.target,
        seconds=seconds,
        detail=_words(error, options),
        label=Label(trusted=options.trusted),
    )


def _words(error: Exception, options: UpstreamOptions) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"upstream `{options.name}` did not finish within {options.call_seconds:g} s"
    return str(error)
