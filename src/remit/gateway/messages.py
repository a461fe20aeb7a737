"""What either side of the gateway knows of a JSON-RPC message: its codes, its kind, its envelope.

The bridge, which a client starts and waits for, needs no more than this; so nothing heavy is
imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from remit.model.call import CALL_TOOL, GET_PROMPT, READ_RESOURCE
from remit.model.errors import UpstreamError

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020

RequestId = str | int

GOVERNED: Mapping[str, tuple[str, str]] = {
    "tools/call": (CALL_TOOL, "name"),
    "resources/read": (READ_RESOURCE, "uri"),
    "prompts/get": (GET_PROMPT, "name"),
}
"""Method → the action it is, and the parameter that names its target."""

_encoder = msgspec.json.Encoder()


class Peek(msgspec.Struct):
    """What has to be known of a message to carry it; everything else stays bytes."""

    id: msgspec.Raw = msgspec.Raw()
    method: str | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()

    @property
    def final(self) -> bool:
        """Whether it answers a request, or some reader could take it for an answer."""
        return bool(self.result) or bool(self.error)

    def answers(self, request_id: RequestId | None) -> bool:
        """Whether it answers the request with this id."""
        return self.final and bool(self.id) and msgspec.json.decode(self.id) == request_id


_peek = msgspec.json.Decoder(Peek)


def peek(data: bytes) -> Peek:
    """Read the envelope of a message from an upstream.

    Raises:
        UpstreamError: it is not a JSON object.
    """
    try:
        return _peek.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError("the upstream sent a message that cannot be read") from error


def rpc_error(request_id: RequestId | None, code: int, message: str, data: Any = None) -> bytes:
    """Return a JSON-RPC error as bytes; ``data`` is left out where it is None."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return _encoder.encode({"jsonrpc": "2.0", "id": request_id, "error": error})
