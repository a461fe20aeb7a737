"""The gateway's front: a plain ASGI app for ``/mcp/{upstream}`` and its RFC 9728 metadata.

Order matters: host and origin first, then identity, then the body. Whoever is unknown costs us no
parsing, and an upstream hears nothing of a request that any of these refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any

import structlog

from remit import closing, spine
from remit.gateway.doorway import (
    WELL_KNOWN,
    Visit,
    certificate_of,
    challenge,
    claim_of,
    identify,
    metadata,
    origin_of,
    require_json,
    require_place,
    task_of,
)
from remit.gateway.exchange import GONE, Exchange, answer_failure
from remit.gateway.forward import Client, HttpUpstream
from remit.gateway.house import CloseTask, House, Perform
from remit.gateway.leaks import LeakGuard, clean_headers
from remit.gateway.messages import INVALID_REQUEST, rpc_error
from remit.gateway.options import GatewayOptions, UpstreamOptions
from remit.gateway.refusals import internal, protocol_error
from remit.gateway.reply import JSON, Receive, Reply, Scope, Send
from remit.gateway.sessions import Session, Sessions
from remit.gateway.stdio_upstream import StdioUpstream
from remit.gateway.upstream import Outgoing, Upstream
from remit.gateway.wire import Head, Message, ProtocolError, headers_up, message_of
from remit.model.errors import (
    ConfigError,
    NotFoundError,
    RemitError,
    UnidentifiedError,
    UpstreamError,
)

log = structlog.get_logger()

_PREFIX = "/mcp/"
_GONE_SECONDS = 5.0


def mcp_app(
    authority: spine.Authority,
    upstreams: Sequence[UpstreamOptions],
    options: GatewayOptions | None = None,
    *,
    perform: Perform = spine.perform,
    close_task: CloseTask = closing.close_task,
    guard: LeakGuard | None = None,
) -> Gateway:
    """Return the gateway as an ASGI app; ``await app.close()`` when done with it.

    Route ``/mcp/`` and ``/.well-known/oauth-protected-resource/mcp/`` to it, with the path left
    whole or with ``root_path`` set.

    Args:
        authority: the rooms that carry a call.
        upstreams: the MCP servers, by distinct names.
        options: how the gateway meets its clients.
        perform: goes round or stands in for :func:`remit.spine.perform` (metrics, tests).
        close_task: the same for :func:`remit.closing.close_task`.
        guard: takes credentials out of what goes down; where None, those that were minted alone.

    Raises:
        ConfigError: two upstreams have one name.
    """
    options = options or GatewayOptions()
    client = Client()
    exact = LeakGuard(authority.leases.secrets)
    made: dict[str, Upstream] = {}
    for each in upstreams:
        if each.name in made:
            raise ConfigError(f"two upstreams are named `{each.name}`")
        made[each.name] = _made(each, client, exact)
    house = House(
        authority=authority,
        upstreams=made,
        options=options,
        perform=perform,
        close_task=close_task,
        guard=guard or LeakGuard(authority.leases.secrets),
        sessions=Sessions(
            limit=options.max_sessions,
            limit_per_owner=options.max_sessions_per_agent,
            idle_seconds=options.session_idle_seconds,
        ),
    )
    authority.leases.held_by(house.let_go)
    return Gateway(house, client)


def _made(options: UpstreamOptions, client: Client, exact: LeakGuard) -> Upstream:
    if options.sql is not None:
        try:
            from remit.gateway.sql.upstream import SqlUpstream  # noqa: PLC0415 - an extra's packages
        except ImportError as error:
            raise ConfigError(
                f"upstream `{options.name}`: `sql` needs a package that is not here "
                f"(`{error.name}`): install `remit[sql]`"
            ) from error
        return SqlUpstream(options)
    if options.command:
        return StdioUpstream(options, lambda text: exact.clean_text(text)[0])
    return HttpUpstream(options, client)


class Gateway:
    """The ASGI app. It owns the connection pool and the upstream processes."""

    def __init__(self, house: House, client: Client) -> None:
        self.house = house
        self._client = client
        self._background: set[asyncio.Task[None]] = set()

    @property
    def upstreams(self) -> Mapping[str, Upstream]:
        """The upstreams by name."""
        return self.house.upstreams

    def health(self) -> Mapping[str, str | None]:
        """Return, for every upstream, None or what went wrong at the last contact."""
        return {name: upstream.health() for name, upstream in self.house.upstreams.items()}

    async def close(self) -> None:
        """Stop every upstream process and close the pool."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(upstream.close() for upstream in self.house.upstreams.values()))
        await self._client.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway serves http, not {scope['type']}")
        reply = Reply(send)
        head = Head(scope["method"], _path(scope), _trimmed(scope["headers"]))
        try:
            require_place(head, self.house.options)
            if head.path.startswith(f"{WELL_KNOWN}{_PREFIX}"):
                await self._metadata(head, scope, reply)
            else:
                await self._enter(head, scope, receive, reply)
        except ProtocolError as error:
            await reply.message(error.http_status, protocol_error(error))
        except RemitError as error:
            await answer_failure(reply, None, error)
        except Exception:
            log.exception("the gateway broke while it served a request")
            if reply.ended:
                raise
            await reply.message(500, internal(None))

    async def _metadata(self, head: Head, scope: Scope, reply: Reply) -> None:
        name = head.path.removeprefix(f"{WELL_KNOWN}{_PREFIX}")
        if name not in self.house.upstreams:
            raise NotFoundError("there is no such resource")
        if head.method not in {"GET", "HEAD"}:
            await reply.whole(405, [(b"allow", b"GET")], b"")
            return
        options = self.house.options
        await reply.whole(200, JSON, metadata(origin_of(head, scope, options), name, options))

    async def _enter(self, head: Head, scope: Scope, receive: Receive, reply: Reply) -> None:
        head.require_once()
        name = head.path.removeprefix(_PREFIX)
        presented = head.one(b"authorization") is not None
        try:
            claim = claim_of(head, certificate_of(scope), self.house.options)
            claim, subject = await identify(claim, self.house.authority)
            upstream = self.house.upstreams.get(name)
            if upstream is None:
                raise NotFoundError("there is no such upstream")
            self._sweep()
            await self._serve(Visit(head, claim, subject, upstream), receive, reply)
        except UnidentifiedError as error:
            if reply.started:
                raise
            origin = origin_of(head, scope, self.house.options)
            told = challenge(error, origin, name, presented=presented)
            header = told.encode("latin-1", "replace")
            body = rpc_error(None, error.status, str(error))
            await reply.whole(401, [*JSON, (b"www-authenticate", header)], body)

    async def _serve(self, visit: Visit, receive: Receive, reply: Reply) -> None:
        head = visit.head
        if head.method == "POST":
            body = await self._body(head, receive)
            message = message_of(head, body, max_depth=self.house.options.max_depth)
            require_json(head)
            exchange = Exchange(self.house, visit, reply)
            await _until_gone(receive, self._answered(exchange, message, reply), exchange)
        elif head.method in {"GET", "DELETE"} and not head.modern:
            await _until_gone(receive, self._session(visit, reply))
        else:
            allow = b"POST" if head.modern else b"GET, POST, DELETE"
            await reply.whole(405, [(b"allow", allow)], b"")

    async def _answered(self, exchange: Exchange, message: Message, reply: Reply) -> None:
        try:
            await exchange.run(message)
        except NotFoundError as error:
            # MCP 2025-11-25, session management: the client is to begin a new session.
            await reply.message(404, rpc_error(message.id, INVALID_REQUEST, str(error)))
        except (ProtocolError, UnidentifiedError):
            raise
        except RemitError as error:
            await answer_failure(reply, message, error)

    async def _session(self, visit: Visit, reply: Reply) -> None:
        """Serve the 2025 era's GET stream and DELETE."""
        house, head, session = self.house, visit.head, visit.head.session
        task = await task_of(visit.claim, visit.subject, house.authority)
        if session is not None:
            house.sessions.require(visit.name, session, visit.owner, task)
        answer = await visit.upstream.send(
            Outgoing(
                method=head.method,
                headers=headers_up(head),
                session=session,
                owner=visit.owner,
                quiet=head.method == "GET",
            )
        )
        try:
            if session is not None and (head.method == "DELETE" or answer.status == GONE):
                house.sessions.close(visit.name, session)
            limit = visit.upstream.options.max_answer_bytes
            clean = house.watching(visit.name)
            clean_headers(answer.headers, clean)
            await house.pending.pass_on(
                answer, reply, visit.name, session or "", limit, clean=clean
            )
        finally:
            await answer.close()

    async def _body(self, head: Head, receive: Receive) -> bytes:
        limit = self.house.options.max_body_bytes
        length = head.one(b"content-length")
        body = bytearray()
        while True:
            if len(body) > limit or (
                length is not None and length.isdecimal() and int(length) > limit
            ):
                raise ProtocolError(f"the body is larger than {limit} bytes", http_status=413)
            event = await receive()
            if event["type"] != "http.request":
                raise ProtocolError("the client left before it had sent its request")
            body += event.get("body", b"")
            if not event.get("more_body", False):
                break
        if len(body) > limit:
            raise ProtocolError(f"the body is larger than {limit} bytes", http_status=413)
        return bytes(body)

    def _sweep(self) -> None:
        """End the sessions that were idle for too long, upstream as well."""
        for session in self.house.sessions.expired():
            task = asyncio.create_task(self._end(session))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _end(self, session: Session) -> None:
        upstream = self.house.upstreams[session.upstream]
        try:
            async with asyncio.timeout(_GONE_SECONDS):
                answer = await upstream.send(
                    Outgoing(
                        method="DELETE",
                        headers=[("mcp-session-id", session.id)],
                        session=session.id,
                        owner=session.owner,
                    )
                )
                await answer.close()
        except (UpstreamError, TimeoutError):
            log.info("an idle session could not be ended upstream", upstream=session.upstream)


async def _until_gone(
    receive: Receive, work: Coroutine[Any, Any, None], exchange: Exchange | None = None
) -> None:
    """Do the work; when the client goes away, cancel it, unless it can be fetched elsewhere."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done() and (exchange is None or not exchange.leave()):
            working.cancel()
            await asyncio.wait({working})
            if not working.cancelled() and (error := working.exception()) is not None:
                log.info("the client left", reason=str(error))
            return
        await working
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _trimmed(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """White space around a value is no part of it (RFC 9110 section 5.5); not every server cuts it."""
    return tuple((name.lower(), value.strip(b" \t")) for name, value in headers)


def _path(scope: Scope) -> str:
    """Return the path as from the host's root, whether or not the app was mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not path.startswith((_PREFIX, WELL_KNOWN)):
        path = f"{root.rstrip('/')}{path}"
    return path
