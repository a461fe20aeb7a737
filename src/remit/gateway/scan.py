"""Looks at what an upstream offers and shows it to the catalogue, definition for definition.

Raw bytes, not the SDK's models: the digest that pins a definition covers every word of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from remit import __version__
from remit.gateway.listing import observed
from remit.gateway.messages import peek
from remit.gateway.relay import Seen, hold
from remit.gateway.reply import Reply
from remit.gateway.upstream import Outgoing, Upstream
from remit.gateway.wire import Message
from remit.model.catalogue import Tool
from remit.model.errors import NotFoundError, UpstreamError
from remit.policy.catalogue import Definition

if TYPE_CHECKING:
    from remit.gateway.front import Gateway

log = structlog.get_logger()

SCANNER = "remit/scan"
"""The owner of the process that a scan uses; it is no workload's."""

_MAX_PAGES = 100
_CLIENT = {"name": "remit", "version": __version__}
_OTHERS = (
    ("prompts/list", "prompts", "prompt", "name"),
    ("resources/list", "resources", "resource", "uri"),
)

_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])


async def scan(gateway: Gateway, upstream: str) -> Sequence[Tool]:
    """List an upstream's tools, prompts and resources, and have the catalogue observe them.

    Returns:
        What the catalogue now says of each.

    Raises:
        NotFoundError: no upstream has this name.
        UpstreamError: it cannot be reached, or its listing cannot be read.
        InputError: it lists more than the catalogue takes.
    """
    house = gateway.house
    behind = house.upstreams.get(upstream)
    if behind is None:
        raise NotFoundError(f"there is no upstream `{upstream}`")
    seconds = behind.options.start_seconds
    try:
        async with asyncio.timeout(seconds), _speaking(behind) as talk:
            tools = await talk.listed("tools/list", "tools")
            others = [
                (kind, key, await talk.listed(method, part, optional=True))
                for method, part, kind, key in _OTHERS
            ]
    except TimeoutError as error:
        raise UpstreamError(f"upstream `{upstream}` did not list within {seconds:g} s") from error
    try:
        found = [tool for tool, _ in observed(house, upstream, tools)]
        for kind, key, entries in others:
            definitions = [_definition(raw, key) for raw in entries]
            found.extend(house.authority.catalogue.observe(upstream, kind, definitions))
    except msgspec.DecodeError as error:
        raise UpstreamError(f"upstream `{upstream}` sent a listing that cannot be read") from error
    await house.authority.evidence.barrier()
    return found


def _definition(raw: msgspec.Raw, key: str) -> Definition:
    name = msgspec.json.decode(raw, type=dict[str, Any]).get(key)
    if not isinstance(name, str):
        raise msgspec.DecodeError(f"a definition has no {key}")
    return Definition(name=name, json_bytes=bytes(raw))


@asynccontextmanager
async def _speaking(upstream: Upstream) -> AsyncIterator[_Talk]:
    """Open a conversation in the era the upstream speaks, the newer one first."""
    try:
        modern = _Talk(upstream, session=None, modern=True)
        if await modern.understood():
            yield modern
            return
    finally:
        await upstream.retire(SCANNER)
    older = _Talk(upstream, session=None, modern=False)
    await older.initialize()
    try:
        yield older
    finally:
        await older.end()


class _Talk:
    """Requests of our own to one upstream."""

    def __init__(self, upstream: Upstream, *, session: str | None, modern: bool) -> None:
        self._upstream = upstream
        self._session = session
        self._modern = modern
        self._number = 0

    async def understood(self) -> bool:
        """Whether the upstream answers a request of the newer era."""
        seconds = self._upstream.options.start_seconds / 2
        try:
            async with asyncio.timeout(seconds):
                return bool(await self._ask("server/discover", {}))
        except TimeoutError:
            return False

    async def initialize(self) -> None:
        """Open a session of the older era.

        Raises:
            UpstreamError: the upstream refuses.
        """
        params = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": {},
            "clientInfo": _CLIENT,
        }
        if not await self._ask("initialize", params):
            name = self._upstream.options.name
            raise UpstreamError(f"upstream `{name}` speaks no version of mcp that remit does")
        await self._tell("notifications/initialized")

    async def end(self) -> None:
        """Close the session."""
        if self._session is not None:
            request = Outgoing(
                method="DELETE", headers=self._headers(), session=self._session, owner=SCANNER
            )
            await (await self._upstream.send(request)).close()

    async def listed(self, method: str, part: str, *, optional: bool = False) -> list[msgspec.Raw]:
        """Return every entry of a listing, page after page.

        Raises:
            UpstreamError: it cannot be read, or has no end.
        """
        found: list[msgspec.Raw] = []
        cursor: str | None = None
        name = self._upstream.options.name
        for _ in range(_MAX_PAGES):
            result = await self._ask(method, {} if cursor is None else {"cursor": cursor})
            if not result:
                if optional or cursor is not None:
                    return found
                raise UpstreamError(f"upstream `{name}` does not list its {part}")
            try:
                page = _raw_object.decode(result)
                found.extend(_raw_list.decode(page.get(part, msgspec.Raw(b"[]"))))
                cursor = msgspec.json.decode(
                    page.get("nextCursor", msgspec.Raw(b"null")), type=str | None
                )
            except msgspec.DecodeError as error:
                raise UpstreamError(
                    f"upstream `{name}` sent a listing that cannot be read"
                ) from error
            if cursor is None:
                return found
        raise UpstreamError(f"upstream `{name}` has more than {_MAX_PAGES} pages of {part}")

    async def _ask(self, method: str, params: dict[str, Any]) -> msgspec.Raw:
        """Return the result of a request; empty where the upstream answers with an error."""
        self._number += 1
        body = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        if self._modern:
            params["_meta"] = {
                PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
                CLIENT_CAPABILITIES_META_KEY: {},
                CLIENT_INFO_META_KEY: _CLIENT,
            }
        message = Message(
            msgspec.json.encode(body), "request", method, self._number, params, self._modern
        )
        answer = await self._upstream.send(self._outgoing(message, method))
        try:
            limit = self._upstream.options.max_answer_bytes
            held = await hold(answer, Reply(_nowhere), limit, Seen())
        finally:
            await answer.close()
        opened = dict(answer.headers).get(b"mcp-session-id")
        if method == "initialize" and opened is not None:
            self._session = opened.decode("latin-1")
        if held is None or not held.data.startswith(b"{"):
            return msgspec.Raw()
        return peek(held.data).result

    async def _tell(self, method: str) -> None:
        body = msgspec.json.encode({"jsonrpc": "2.0", "method": method})
        message = Message(body, "notification", method, None, {}, self._modern)
        answer = await self._upstream.send(self._outgoing(message, method))
        await answer.close()

    def _outgoing(self, message: Message, method: str) -> Outgoing:
        headers = self._headers()
        if self._modern:
            headers.append(("mcp-method", method))
        return Outgoing(
            method="POST", headers=headers, message=message, session=self._session, owner=SCANNER
        )

    def _headers(self) -> list[tuple[str, str]]:
        version = LATEST_MODERN_VERSION if self._modern else LATEST_HANDSHAKE_VERSION
        headers = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", version),
        ]
        if self._session is not None:
            headers.append(("mcp-session-id", self._session))
        return headers


async def _nowhere(message: MutableMapping[str, Any]) -> None:
    """What an upstream says before it answers a scan is nobody's."""
