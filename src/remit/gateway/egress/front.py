"""The way out for plain HTTP APIs, as ASGI: ``/egress/{service}/…``.

A client calls it as it would call the API, with its own identity and task token instead of the
API's key. The request becomes one call, decided as any other; the credential is put in here. An
address in the request, its Host above all, decides nothing: where a service is stands in the
configuration. Refusals are problem details (RFC 9457) that say what would help.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import msgspec
import structlog
from aiohttp.abc import AbstractResolver

from remit.gateway.doorway import certificate_of, claim_of, identify, require_place
from remit.gateway.egress import headers as passing
from remit.gateway.egress.addresses import PublicOnly
from remit.gateway.egress.flight import Flight
from remit.gateway.egress.operations import Matched, Request
from remit.gateway.egress.service import Service
from remit.gateway.forward import UnreachableError
from remit.gateway.governed import digest_of
from remit.gateway.house import House, Perform
from remit.gateway.in_flight import InFlight
from remit.gateway.incoming import require_none, revoke, told
from remit.gateway.leaks import LeakGuard
from remit.gateway.options import GatewayOptions
from remit.gateway.refusals import about, explain
from remit.gateway.reply import Receive, Reply, Scope, Send
from remit.gateway.wire import Head, ProtocolError
from remit.identity.dpop import challenge
from remit.model.call import CALL_TOOL, Call
from remit.model.contact import Contact, Contacts
from remit.model.errors import (
    InputError,
    NotFoundError,
    RemitError,
    UnidentifiedError,
    UpstreamError,
)
from remit.model.outcome import Ending, Outcome
from remit.model.record import Context, Step
from remit.model.subject import Claim
from remit.policy.catalogue import Definition
from remit.spine import Authority

log = structlog.get_logger()

PREFIX = "/egress/"
_PROBLEM = [(b"content-type", b"application/problem+json")]
_CONNECTIONS = 128
_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


@dataclass(slots=True, kw_only=True)
class Egress:
    """The ASGI app. Each service has its own connections: one that hangs holds up no other."""

    authority: Authority
    services: Mapping[str, Service]
    options: GatewayOptions
    perform: Perform
    call_id: Callable[[], str]
    guard: LeakGuard
    in_flight: InFlight = field(default_factory=InFlight)
    resolver: Callable[[], AbstractResolver | None] = lambda: None
    _sessions: dict[str, aiohttp.ClientSession] = field(default_factory=dict)
    _trouble: dict[str, str | None] = field(default_factory=dict)
    _contacts: Contacts = field(init=False)

    def __post_init__(self) -> None:
        self._contacts = Contacts(self.authority.clock)

    @classmethod
    def beside(cls, house: House, services: Mapping[str, Service]) -> Egress:
        """Return the way out that shares what the MCP gateway has."""
        return cls(
            authority=house.authority,
            services=services,
            options=house.options,
            perform=house.perform,
            call_id=house.call_id,
            guard=house.guard,
            in_flight=house.in_flight,
        )

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()

    def health(self) -> Mapping[str, str | None]:
        """Return, for every service, None or what went wrong at the last contact."""
        return {name: self._trouble.get(name) for name in self.services}

    def seen(self) -> Mapping[str, Contact]:
        """Return, for every service, when it last answered a call and what went wrong last."""
        return self._contacts.among(self.services)

    async def catalogue(self) -> None:
        """Have the catalogue know every operation and no other: the configuration is its only word.

        Raises:
            InputError: there are more than the catalogue takes.
            EvidenceError: it could not be recorded.
        """
        catalogue = self.authority.catalogue
        for service in self.services.values():
            defined = definitions(service)
            catalogue.keep_only(service.name, {each.name for each in defined})
            found = catalogue.observe(service.name, "tool", defined)
            for tool in found:
                if tool.definition_digest != tool.seen_digest:
                    await catalogue.accept(tool.target, "configuration")
        await self.authority.evidence.barrier()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        reply = Reply(send)
        head = Head(
            scope["method"],
            scope["path"],
            tuple((name.lower(), value.strip(b" \t")) for name, value in scope["headers"]),
        )
        try:
            require_place(head, self.options)
            head.require_once()
            await self._serve(head, scope, receive, reply)
        except RemitError as error:
            await self._refuse(error, reply, presented=head.one(b"authorization") is not None)
        except Exception:
            log.exception("the egress gateway broke while it served a request")
            if reply.started:
                raise
            await reply.whole(500, _PROBLEM, _problem(500, "internal", "remit failed inside", {}))

    async def _serve(self, head: Head, scope: Scope, receive: Receive, reply: Reply) -> None:
        claim = claim_of(head, certificate_of(scope), self.options)
        claim, subject = await identify(claim, self.authority)
        name, path = _split(scope)
        service = self.services.get(name)
        if service is None:
            raise NotFoundError("there is no such service")
        body = await _body(head, receive, self.options.max_body_bytes)
        request = Request(
            method=head.method,
            path=path,
            query=scope.get("query_string", b""),
            body=body,
            media=_media(head),
        )
        matched = service.operations.match(request, max_depth=self.options.max_depth)
        call = call_of(service, matched, self.call_id(), head.one(b"traceparent"))
        await require_none(
            [matched.arguments, [value.decode("latin-1") for _, value in head.headers]],
            "request",
            self.guard,
            self.authority,
            Context(call=call.id),
        )
        if claim.task_token is None and subject.agent.gateway_templates:
            current = self.authority.tasks.current(str(subject.workload))
            claim = replace(claim, task_token=current)
        media = matched.operation.media if body else None
        headers = passing.up(head, service, media=media)
        flight = Flight(
            service, matched, headers, self._session(service), reply, self.guard, self.in_flight
        )
        performing = asyncio.ensure_future(self._performed(claim, call, flight))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({performing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not performing.done():
                return
            outcome = performing.result()
        finally:
            leaving.cancel()
            if not performing.done():
                # The client is gone, or we are told to stop: the service is let go of.
                performing.cancel()
                await asyncio.wait({performing})
                if not performing.cancelled() and (error := performing.exception()) is not None:
                    log.info("the client left", reason=str(error))
        if not flight.answered:
            unknown = outcome.ending is Ending.UNKNOWN
            more = "; whether the call was carried out is not known" if unknown else ""
            raise UpstreamError(f"{outcome.detail}{more}")
        await flight.land()

    async def _refuse(self, error: RemitError, reply: Reply, *, presented: bool) -> None:
        """Answer with a problem (RFC 9457), unless an answer is on its way: then cut it off."""
        if reply.started:
            raise error
        status = error.http_status if isinstance(error, ProtocolError) else error.status
        headers = list(_PROBLEM)
        if isinstance(error, UnidentifiedError):
            asked = challenge(error, "", invalid=presented)
            headers.append((b"www-authenticate", asked.encode("latin-1", "replace")))
        plain = isinstance(error, InputError | NotFoundError)
        # It may tell what a service or a broker's target said.
        detail, leaks = self.guard.clean_text(str(error) if plain else explain(error))
        if leaks:
            step = Step(kind="leak.removed", body={"upstream": None, "leaks": told(leaks)})
            await revoke(step, leaks, self.authority, Context())
        await reply.whole(status, headers, _problem(status, error.code, detail, about(error)))

    async def _performed(self, claim: Claim, call: Call, flight: Flight) -> Outcome:
        """Carry the call, and note how its service fares."""
        name = flight.service.name
        try:
            outcome = await self.perform(claim, call, flight.act, self.authority)
        except UnreachableError as error:
            self._noted(name, error.reason)
            raise
        self._noted(name, None if flight.answered else outcome.detail or "it did not answer")
        return outcome

    def _noted(self, name: str, trouble: str | None) -> None:
        self._trouble[name] = trouble
        self._contacts.noted(name, trouble)

    def _session(self, service: Service) -> aiohttp.ClientSession:
        """Return what makes a service's connections, one for each call."""
        session = self._sessions.get(service.name)
        if session is None:
            resolver = self.resolver()
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=_CONNECTIONS,
                    force_close=True,
                    resolver=resolver if service.private else PublicOnly(resolver),
                    # A name is resolved, and looked at, for every connection.
                    use_dns_cache=False,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_AUTOMATIC,
                trust_env=False,
                middlewares=(_once,),
            )
            self._sessions[service.name] = session
        return session


class _BrokeOffError(aiohttp.ClientError):
    """What aiohttp would answer by sending an idempotent request again."""


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request once: one call acts once, and a proof of possession is used up by it."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _BrokeOffError from error


def call_of(service: Service, matched: Matched, call_id: str, trace: str | None = None) -> Call:
    """Return the call that a matched request asks for."""
    target = f"{service.name}/{matched.operation.name}"
    return Call(
        id=call_id,
        action=CALL_TOOL,
        upstream=service.name,
        name=matched.operation.name,
        arguments=matched.arguments,
        digest=digest_of(CALL_TOOL, target, matched.arguments),
        trace=trace if trace is not None and _TRACEPARENT.match(trace) else None,
    )


def definitions(service: Service) -> Sequence[Definition]:
    """Return what the catalogue keeps of each operation."""
    return [
        Definition(
            name=operation.name,
            json_bytes=msgspec.json.encode(
                {
                    "name": operation.name,
                    "description": operation.description,
                    "http": {
                        "method": operation.method,
                        "url": service.base + operation.path,
                        "query": sorted(operation.query),
                        "body": operation.body if operation.body == "none" else operation.media,
                        "arguments": operation.body,
                    },
                    "annotations": {
                        "readOnlyHint": operation.method in {"GET", "HEAD"},
                        "destructiveHint": operation.method == "DELETE",
                    },
                }
            ),
        )
        for operation in service.operations.all
    ]


def _split(scope: Scope) -> tuple[str, bytes]:
    """Return the service's name and the path behind it, as it stands in the request's line."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    rest = raw.partition(b"?")[0].removeprefix(PREFIX.encode())
    name, slash, path = rest.partition(b"/")
    return name.decode("latin-1"), slash + path if slash else b"/"


def _media(head: Head) -> str:
    """Return the content type of a body that is plain UTF-8, or nothing."""
    media, *parameters = (head.one(b"content-type") or "").lower().split(";")
    if (head.one(b"content-encoding") or "identity").lower() != "identity":
        return ""
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in {"utf-8", "utf8"}:
            return ""
    return media.strip()


async def _body(head: Head, receive: Receive, limit: int) -> bytes:
    length = head.one(b"content-length")
    body, more = bytearray(), True
    while more:
        if len(body) > limit or (length and length.isdecimal() and int(length) > limit):
            raise ProtocolError(f"the body is larger than {limit} bytes", http_status=413)
        event = await receive()
        if event["type"] != "http.request":
            raise ProtocolError("the client left before it had sent its request")
        body += event.get("body", b"")
        more = event.get("more_body", False)
    if len(body) > limit:
        raise ProtocolError(f"the body is larger than {limit} bytes", http_status=413)
    return bytes(body)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _problem(status: int, code: str, detail: str, more: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(
        {"type": "about:blank", "title": code, "status": status, "detail": detail, "remit": more}
    )
