"""One session of the 2025 era over processes: the one that it began with, and those with credentials.

The first process never sees a credential: it answers listings and whatever is not decided. A call
that needs one goes to a process of its task, which is opened with the client's own words; what that
process says and asks reaches the same client.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from remit.gateway.asked import Asked
from remit.gateway.forward import UnreachableError
from remit.gateway.messages import peek
from remit.gateway.pipe import Pipe
from remit.gateway.wire import Message
from remit.model.errors import UpstreamError

INITIALIZED = "notifications/initialized"
CANCELLED = "notifications/cancelled"
SET_LEVEL = "logging/setLevel"

_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True, eq=False)
class StdioSession:
    """``opening`` is the client's initialize, ``level`` the log level that it last asked for."""

    id: str
    owner: str
    pipe: Pipe
    opening: Message
    asked: Asked = field(default_factory=Asked)
    level: Message | None = None

    async def tell(self, message: Message, others: Iterable[Pipe]) -> None:
        """Carry a notification or an answer of the client's to the process that it is for.

        Raises:
            UnreachableError: the session's own process has ended.
        """
        if message.kind == "response":
            found = self.asked.answered(message.id, message.body)
            pipe, body = found or (self.pipe, message.body)
            await pipe.tell(body)
            return
        if message.method == CANCELLED:
            wanted = message.params.get("requestId")
            for pipe in others:
                if pipe.waits_for(wanted):
                    await pipe.tell(message.body)
                    return
        elif message.method != INITIALIZED:
            # Roots that changed, progress of what a process asked for: each takes what is its own.
            for pipe in others:
                with contextlib.suppress(UnreachableError):
                    await pipe.tell(message.body)
        await self.pipe.tell(message.body)

    async def set_level(self, message: Message, others: Iterable[Pipe]) -> None:
        """Remember the log level that the client wants, and ask the other processes for it."""
        self.level = message
        for pipe in others:
            with contextlib.suppress(UnreachableError):
                await pipe.tell(_as_ours(message).body)

    async def open(self, pipe: Pipe, seconds: float, name: str) -> None:
        """Open a process with a credential as the client opened the session.

        Raises:
            UnreachableError: it does not begin; the call was not delivered.
        """
        pipe.aside, pipe.aside_there = self.pipe.aside, self.pipe.aside_there
        pipe.rename = self.asked.renamed
        try:
            async with asyncio.timeout(seconds):
                await self._opened(pipe, name)
        except TimeoutError as error:
            raise UnreachableError(
                f"upstream `{name}` did not begin within {seconds:g} s with its credential"
            ) from error
        except UnreachableError:
            raise
        except UpstreamError as error:
            raise UnreachableError(str(error)) from error

    async def _opened(self, pipe: Pipe, name: str) -> None:
        line = await first_answer(pipe, _as_ours(self.opening))
        if not peek(line).result:
            raise UnreachableError(
                f"upstream `{name}` does not begin with the credential that it was given"
            )
        await pipe.tell(_encode({"jsonrpc": "2.0", "method": INITIALIZED}))
        if self.level is not None:
            await pipe.tell(_as_ours(self.level).body)


async def first_answer(pipe: Pipe, message: Message) -> bytes:
    """Wait for the handshake's answer; what the process says before it waits for its stream.

    Raises:
        UpstreamError: the process ended first.
    """
    lane = await pipe.ask(message)
    while True:
        line = await lane.lines.get()
        if isinstance(line, UpstreamError):
            raise line
        if peek(line).final:
            return line
        pipe.aside.append(line)


def _as_ours(message: Message) -> Message:
    """Return a request of the client's under an id of ours: its answer is not the client's."""
    whole = _raw.decode(message.body)
    request_id = f"remit:{message.method}"
    whole["id"] = msgspec.Raw(_encode(request_id))
    return Message(_encode(whole), "request", message.method, request_id, {}, message.modern)
