"""The port to whatever stands behind the gateway, and the answer that comes through it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from remit.gateway.options import UpstreamOptions
from remit.gateway.wire import Message
from remit.model.call import Call
from remit.model.lease import Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One request on its way up, stripped of everything that is the client's alone.

    ``owner`` is the workload it is made for: an upstream process is never shared between two.
    ``quiet`` says that the answer is a stream which may stay silent as long as it likes.
    ``credential`` is for an upstream that uses it itself, or starts a process with it.
    """

    method: str
    headers: list[tuple[str, str]] = field(repr=False)
    message: Message | None = None
    session: str | None = None
    owner: str = ""
    quiet: bool = False
    credential: Credential | None = field(default=None, repr=False)


class Answer(Protocol):
    """An upstream's answer: status and headers now, bytes as they come."""

    status: int
    headers: list[tuple[bytes, bytes]]

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises UpstreamError when the upstream breaks off or falls silent."""
        ...

    async def close(self) -> None:
        """Let go. Before the body's end this cancels the request at the upstream."""
        ...


class Upstream(Protocol):
    """One MCP server, however it is reached."""

    options: UpstreamOptions

    async def send(self, request: Outgoing) -> Answer:
        """Send one request and return its answer once the head of it is there.

        Raises:
            UnreachableError: the request was certainly not delivered.
            UpstreamError: it may have been.
        """
        ...

    def health(self) -> str | None:
        """Return None where the last contact went well, else what went wrong or that there was none."""
        ...

    async def retire(self, owner: str) -> None:
        """Stop what runs for one owner's stateless requests, if anything does."""
        ...

    async def close(self) -> None:
        """Stop whatever runs for this upstream."""
        ...


@runtime_checkable
class Understanding(Protocol):
    """An upstream that can tell what a call is about before it is decided."""

    async def understand(self, call: Call) -> Call:
        """Return the call with what it is about among its arguments; the bytes stay as they are.

        Raises:
            InputError: it cannot be told, so the call is refused.
        """
        ...


@runtime_checkable
class Holding(Protocol):
    """An upstream whose processes hold credentials."""

    async def let_go(self, lease: str) -> None:
        """End every process that holds the credential of a lease, and wait for its end."""
        ...


UpstreamFactory = Callable[[UpstreamOptions], Upstream]


def content_type(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return an answer's media type, lower-case, without parameters."""
    for key, value in headers:
        if key == b"content-type":
            return value.split(b";")[0].strip().lower()
    return b""
