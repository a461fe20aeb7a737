"""One request as it came over HTTP: its head, its message, and whether the two agree.

Header names, eras and codes are those of MCP 2025-11-25 and 2026-07-28 (basic/transports). What
decides is always the body; a header that says otherwise is refused (-32020), because whoever reads
only headers would have decided about another call than the one that was made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request, decode_header_value
from mcp_types import PROTOCOL_VERSION_META_KEY
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from remit.gateway.messages import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    RequestId,
)
from remit.gateway.strict_json import MalformedJsonError, read
from remit.model.errors import InputError

_ONCE = (
    b"authorization",
    b"remit-task",
    b"mcp-session-id",
    b"mcp-protocol-version",
    b"mcp-method",
    b"mcp-name",
    b"last-event-id",
    b"content-type",
    b"content-encoding",
    b"host",
    b"origin",
)
_NAMED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
    "tasks/result": "taskId",
}


class ProtocolError(InputError):
    """A request that the protocol itself refuses: with which status, code and data."""

    def __init__(
        self,
        message: str,
        *,
        code: int = INVALID_REQUEST,
        http_status: int = 400,
        request_id: RequestId | None = None,
        data: Any = None,
    ) -> None:
        super().__init__(message)
        self.rpc_code = code
        self.http_status = http_status
        self.request_id = request_id
        self.data = data


@dataclass(frozen=True, slots=True)
class Head:
    """A request's line and headers; names are lower-case bytes, as ASGI gives them."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)

    def one(self, name: bytes) -> str | None:
        """Return the header's value, or None. Never the second of two: see :meth:`require_once`."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def require_once(self) -> None:
        """Refuse a request that gives a deciding header twice.

        Raises:
            ProtocolError: first-copy and last-copy readers would disagree (-32020).
        """
        seen: set[bytes] = set()
        for key, _ in self.headers:
            if key in seen and (key in _ONCE or key.startswith(b"mcp-param-")):
                raise ProtocolError(
                    f"the header `{key.decode('latin-1')}` appears more than once",
                    code=HEADER_MISMATCH,
                )
            seen.add(key)

    @property
    def version(self) -> str | None:
        """The protocol version that the client named in its header."""
        return self.one(b"mcp-protocol-version")

    @property
    def modern(self) -> bool:
        """Whether the request belongs to the stateless era: it names a version no handshake had."""
        return self.version is not None and self.version not in HANDSHAKE_PROTOCOL_VERSIONS

    @property
    def session(self) -> str | None:
        """The session id of the 2025 era."""
        return self.one(b"mcp-session-id")


@dataclass(frozen=True, slots=True)
class Message:
    """One JSON-RPC message, parsed once; ``body`` is what came and what is forwarded."""

    body: bytes = field(repr=False)
    kind: Literal["request", "notification", "response"]
    method: str
    id: RequestId | None
    params: Mapping[str, Any] = field(repr=False)
    modern: bool

    @property
    def meta(self) -> Mapping[str, Any]:
        """``params._meta``, or nothing."""
        meta = self.params.get("_meta")
        return meta if isinstance(meta, Mapping) else {}


def message_of(head: Head, body: bytes, *, max_depth: int = 64) -> Message:
    """Parse ``body`` once and hold it against ``head``.

    Raises:
        ProtocolError: it is not one unambiguous JSON-RPC message, or the headers disagree with it.
    """
    try:
        value = read(body, max_depth=max_depth)
    except MalformedJsonError as error:
        raise ProtocolError(str(error), code=PARSE_ERROR) from error
    except InputError as error:
        raise ProtocolError(str(error)) from error
    if isinstance(value, list):
        raise ProtocolError("the body is a batch; send one message at a time")
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise ProtocolError("the body is not a json-rpc 2.0 message")
    message = _message(value, body, modern=head.modern)
    if message.kind == "request":
        _agree(head, message, value)
    return message


def _message(value: dict[str, Any], body: bytes, *, modern: bool) -> Message:
    request_id = value.get("id")
    if "id" in value and (isinstance(request_id, bool) or not isinstance(request_id, str | int)):
        if "method" in value or request_id is not None:
            raise ProtocolError("the message's id has to be a string or an integer")
        request_id = None
    answers = "result" in value or "error" in value
    if "method" not in value:
        if not answers or "id" not in value or ("result" in value and "error" in value):
            raise ProtocolError("the body is neither a request, a notification nor a response")
        return Message(body, "response", "", request_id, {}, modern)
    method = value["method"]
    params = value.get("params", {})
    if answers or not isinstance(method, str):
        raise ProtocolError("the body is not one json-rpc message", request_id=request_id)
    if not isinstance(params, dict):
        raise ProtocolError(
            "the message's params have to be an object", code=INVALID_PARAMS, request_id=request_id
        )
    _require_meta(params, request_id)
    kind: Literal["request", "notification"] = "request" if "id" in value else "notification"
    if (kind == "notification") != method.startswith("notifications/"):
        raise ProtocolError(
            f"`{method}` with{'out' if kind == 'notification' else ''} an id is not a message",
            request_id=request_id,
        )
    return Message(body, kind, method, request_id, params, modern)


def _require_meta(params: Mapping[str, Any], request_id: RequestId | None) -> None:
    """Hold ``_meta`` to its shape: it is what answers and progress are told apart by."""
    meta = params.get("_meta", {})
    token = meta.get("progressToken", 0) if isinstance(meta, dict) else None
    if isinstance(token, bool) or not isinstance(token, str | int):
        what = "progressToken" if isinstance(meta, dict) else "_meta"
        kind = "a string or an integer" if isinstance(meta, dict) else "an object"
        raise ProtocolError(
            f"the message's {what} has to be {kind}", code=INVALID_PARAMS, request_id=request_id
        )


def _agree(head: Head, message: Message, value: dict[str, Any]) -> None:
    if message.modern:
        verdict = classify_inbound_request(
            value, headers={key.decode("latin-1"): v.decode("latin-1") for key, v in head.headers}
        )
        if isinstance(verdict, InboundLadderRejection):
            raise ProtocolError(
                verdict.message,
                code=verdict.code,
                request_id=message.id,
                data=verdict.data,
            )
    elif PROTOCOL_VERSION_META_KEY in message.meta and message.method != "initialize":
        raise ProtocolError(
            "the message belongs to a stateless protocol version that its headers do not name",
            code=HEADER_MISMATCH,
            request_id=message.id,
        )
    _require_named(head, message)


def _require_named(head: Head, message: Message) -> None:
    """Hold ``Mcp-Method`` and ``Mcp-Name`` against the body wherever they are sent at all."""
    method = head.one(b"mcp-method")
    if method is not None and method != message.method:
        raise ProtocolError(
            "mcp-method header does not match the request body's method",
            code=HEADER_MISMATCH,
            request_id=message.id,
        )
    name = head.one(b"mcp-name")
    key = _NAMED.get(message.method)
    if name is None or key is None:
        return
    if decode_header_value(name) != message.params.get(key):
        raise ProtocolError(
            f"mcp-name header does not match the request body's `{key}`",
            code=HEADER_MISMATCH,
            request_id=message.id,
        )


_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NEVER_UP = _HOP_BY_HOP | {
    b"authorization",
    b"cookie",
    b"dpop",
    b"host",
    b"origin",
    b"referer",
    b"content-length",
    b"accept-encoding",
    b"expect",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"forwarded",
}
_NEVER_DOWN = _HOP_BY_HOP | {
    b"set-cookie",
    b"content-length",
    b"content-encoding",
    b"server",
    b"date",
}


def headers_up(head: Head) -> list[tuple[str, str]]:
    """Return the headers an upstream may see: no token, cookie or task of the client's, ever."""
    named = _connection_named(head.headers)
    return [
        (key.decode("latin-1"), value.decode("latin-1"))
        for key, value in head.headers
        if key not in _NEVER_UP
        and key not in named
        # A server that turns `-` and `_` into one name would take it for the other header.
        and b"_" not in key
        and not key.startswith((b"remit-", b"x-forwarded-", b"sec-"))
    ]


def headers_down(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an upstream's answer that the client may see, names lower-case."""
    lowered = [(key.lower(), value) for key, value in headers]
    named = _connection_named(lowered)
    return [
        (key, value)
        for key, value in lowered
        if key not in _NEVER_DOWN
        and key not in named
        # A server refuses to send these, and the whole answer with them.
        and _TOKEN.match(key)
        and not _CONTROL.search(value)
    ]


def _connection_named(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Headers that ``Connection`` declares hop-by-hop (RFC 9110 section 7.6.1)."""
    return {
        name.strip().lower()
        for key, value in headers
        if key == b"connection"
        for name in value.split(b",")
    } - {b"content-type", b"mcp-session-id", b"mcp-protocol-version"}
