"""The five calls of the SPIFFE Workload API, for one connection.

Every call, and every message pushed into an open stream, attests the peer anew: a stream is not a
permission that was given once. What goes wrong maps to the standard's codes: no security header or
a malformed request is ``InvalidArgument``, a process without an identity ``PermissionDenied``, and
trouble of our own ``Unavailable``, which clients retry.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Stream

from remit.identity.workload_api import workload_pb2 as pb
from remit.identity.workload_api.attestation import Attestor, Entries
from remit.identity.workload_api.peer import Peer
from remit.identity.workload_api.ports import (
    Federated,
    Issuer,
    Validate,
    jwt_authorities,
    x509_authorities,
)
from remit.model.errors import UnidentifiedError
from remit.model.record import Json
from remit.model.subject import SpiffeId
from remit.proof.dpop import is_thumbprint

SERVICE = "/SpiffeWorkloadAPI/"
SECURITY_HEADER = "workload.spiffe.io"
KEY_HEADER = "remit-key"
"""Names a key of the process, by its RFC 7638 thumbprint: the JWT-SVID is then good with that key only
(``cnf.jkt``). Ours; a Workload API that does not know it issues a JWT-SVID that is not bound."""
_MAX_AUDIENCES = 16
_MAX_AUDIENCE_BYTES = 2048

_log = structlog.get_logger()
_AnyStream = Stream[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what one peer can take. Times in seconds.

    ``recheck_seconds`` is how often an open stream looks again by itself at peer, entries and
    bundle; ``WorkloadApi.changed`` makes it look at once.
    """

    connections: int = 1024
    streams_per_process: int = 16
    request_bytes: int = 64 * 1024
    request_seconds: float = 10.0
    send_seconds: float = 10.0
    recheck_seconds: float = 5.0
    close_seconds: float = 2.0


@dataclass(slots=True)
class Desk:
    """What every connection shares: the authority's ports, and the streams now open."""

    issuer: Issuer
    entries: Entries
    attestor: Attestor
    validate: Validate
    federated: Federated
    clock: Callable[[], datetime]
    limits: Limits
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False
    open_streams: Counter[int] = field(default_factory=Counter)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def wake(self) -> None:
        """Make every open stream look again."""
        self.changed.set()
        self.changed = asyncio.Event()


_Compose = Callable[[tuple[SpiffeId, ...]], tuple[Message, datetime | None]]


class Service:
    """The API as one connected peer meets it."""

    def __init__(self, desk: Desk, peer: Peer) -> None:
        self._desk = desk
        self._peer = peer

    def handlers(self) -> Mapping[str, Handler]:
        """Return the calls by their path on the wire, which has no protobuf package."""
        unary, streaming = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        table: tuple[
            tuple[str, Callable[[_AnyStream], Awaitable[None]], Cardinality, Any, Any], ...
        ]
        table = (
            ("FetchX509SVID", self._x509_svid, streaming, pb.X509SVIDRequest, pb.X509SVIDResponse),
            (
                "FetchX509Bundles",
                self._x509_bundles,
                streaming,
                pb.X509BundlesRequest,
                pb.X509BundlesResponse,
            ),
            ("FetchJWTSVID", self._jwt_svid, unary, pb.JWTSVIDRequest, pb.JWTSVIDResponse),
            (
                "FetchJWTBundles",
                self._jwt_bundles,
                streaming,
                pb.JWTBundlesRequest,
                pb.JWTBundlesResponse,
            ),
            (
                "ValidateJWTSVID",
                self._validate,
                unary,
                pb.ValidateJWTSVIDRequest,
                pb.ValidateJWTSVIDResponse,
            ),
        )
        return {
            SERVICE + name: Handler(_guarded(call, name), cardinality, request, reply)
            for name, call, cardinality, request, reply in table
        }

    async def _jwt_svid(self, stream: _AnyStream) -> None:
        request = await self._request(stream)
        audiences = list(dict.fromkeys(request.audience))
        if not audiences or "" in audiences:
            raise _invalid("a JWT-SVID needs an audience")
        if len(audiences) > _MAX_AUDIENCES or any(
            len(one.encode()) > _MAX_AUDIENCE_BYTES for one in audiences
        ):
            raise _invalid("too many audiences, or one too long")
        held = await self._identities()
        if request.spiffe_id:
            held = tuple(one for one in held if str(one) == request.spiffe_id)
            if not held:
                raise UnidentifiedError("the identity asked for is not this process's")
        issuer, extra = self._desk.issuer, _confirmation(stream)
        svids = [
            pb.JWTSVID(spiffe_id=str(one), svid=issuer.issue_jwt_svid(one, audiences, extra=extra))
            for one in held
        ]
        await self._send(stream, pb.JWTSVIDResponse(svids=svids))

    async def _validate(self, stream: _AnyStream) -> None:
        request = await self._request(stream)
        if not request.audience or not request.svid:
            raise _invalid("validation needs an audience and a JWT-SVID")
        await self._identities()
        try:
            claims = await self._desk.validate(request.svid, request.audience)
        except UnidentifiedError as error:
            raise _invalid(f"the JWT-SVID does not hold: {error}") from error
        reply = pb.ValidateJWTSVIDResponse(spiffe_id=str(claims["sub"]))
        reply.claims.update(claims)
        await self._send(stream, reply)

    async def _x509_svid(self, stream: _AnyStream) -> None:
        await self._stream(stream, self._compose_x509_svid)

    async def _x509_bundles(self, stream: _AnyStream) -> None:
        await self._stream(stream, self._compose_x509_bundles)

    async def _jwt_bundles(self, stream: _AnyStream) -> None:
        await self._stream(stream, self._compose_jwt_bundles)

    def _compose_x509_svid(self, held: tuple[SpiffeId, ...]) -> tuple[Message, datetime | None]:
        issuer, now = self._desk.issuer, self._desk.clock()
        bundle = x509_authorities(issuer.bundle())
        reply = pb.X509SVIDResponse()
        renewals: list[datetime] = []
        for one in held:
            svid = issuer.issue_x509_svid(one)
            reply.svids.add(
                spiffe_id=str(one),
                x509_svid=b"".join(svid.certificates),
                x509_svid_key=svid.private_key,
                bundle=bundle,
            )
            renewals.append(now + (svid.expires_at - now) / 2)
        for domain, document in self._desk.federated().items():
            reply.federated_bundles[f"spiffe://{domain}"] = x509_authorities(document)
        return reply, min(renewals)

    def _compose_x509_bundles(self, _: tuple[SpiffeId, ...]) -> tuple[Message, datetime | None]:
        return pb.X509BundlesResponse(bundles=self._bundles(x509_authorities)), None

    def _compose_jwt_bundles(self, _: tuple[SpiffeId, ...]) -> tuple[Message, datetime | None]:
        return pb.JWTBundlesResponse(bundles=self._bundles(jwt_authorities)), None

    def _bundles(self, part: Callable[[bytes], bytes]) -> dict[str, bytes]:
        own = {self._desk.issuer.name: self._desk.issuer.bundle()}
        documents = {**self._desk.federated(), **own}
        return {f"spiffe://{domain}": part(document) for domain, document in documents.items()}

    async def _identities(self) -> tuple[SpiffeId, ...]:
        workload = await self._desk.attestor.attest(self._peer)
        return workload.identities(self._desk.entries)

    async def _request(self, stream: _AnyStream) -> Any:
        if stream.metadata is None or stream.metadata.getall(SECURITY_HEADER, []) != ["true"]:
            raise _invalid(f"the metadata `{SECURITY_HEADER}: true` is required")
        try:
            async with asyncio.timeout(self._desk.limits.request_seconds):
                request = await stream.recv_message()
        except (DecodeError, NotImplementedError, AssertionError) as error:
            raise _invalid("the request is malformed") from error
        except TimeoutError as error:
            raise GRPCError(Status.DEADLINE_EXCEEDED, "the request did not arrive") from error
        if request is None:
            raise _invalid("the request is empty")
        return request

    async def _send(self, stream: _AnyStream, message: Message) -> None:
        try:
            async with asyncio.timeout(self._desk.limits.send_seconds):
                await stream.send_message(message)
        except TimeoutError as error:
            raise GRPCError(Status.DEADLINE_EXCEEDED, "the client does not read") from error

    async def _stream(self, stream: _AnyStream, compose: _Compose) -> None:
        """Send the state, and again whenever it is another one or half of its life is over."""
        await self._request(stream)
        async with self._slot():
            sent: object = None
            renew_at: datetime | None = None
            while not self._desk.closing:
                changed = self._desk.changed
                held = await self._identities()
                state = (held, self._desk.issuer.bundle(), dict(self._desk.federated()))
                now = self._desk.clock()
                if state != sent or (renew_at is not None and now >= renew_at):
                    message, renew_at = compose(held)
                    await self._send(stream, message)
                    sent = state
                await _pause(changed, self._wait_seconds(renew_at))
        raise GRPCError(Status.UNAVAILABLE, "the authority is shutting down")

    def _wait_seconds(self, renew_at: datetime | None) -> float:
        recheck = self._desk.limits.recheck_seconds
        if renew_at is None:
            return recheck
        left: timedelta = renew_at - self._desk.clock()
        return min(recheck, max(left.total_seconds(), 0.001))

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        counts, pid = self._desk.open_streams, self._peer.pid
        if counts[pid] >= self._desk.limits.streams_per_process:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "too many open streams for one process")
        counts[pid] += 1
        self._desk.idle.clear()
        try:
            yield
        finally:
            counts[pid] -= 1
            if not counts[pid]:
                del counts[pid]
            if not counts:
                self._desk.idle.set()


def _guarded(
    call: Callable[[_AnyStream], Awaitable[None]], name: str
) -> Callable[[_AnyStream], Awaitable[None]]:
    """Turn our errors into the standard's codes; say nothing of our own trouble to the peer."""

    async def guarded(stream: _AnyStream) -> None:
        try:
            await call(stream)
        except (GRPCError, StreamTerminatedError):
            raise
        except UnidentifiedError as error:
            _log.info("workload refused", call=name, reason=str(error))
            raise GRPCError(Status.PERMISSION_DENIED, "no identity issued") from error
        except Exception as error:
            _log.exception("workload api failed", call=name)
            raise GRPCError(Status.UNAVAILABLE, "the authority cannot answer now") from error

    return guarded


async def _pause(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return


def _confirmation(stream: _AnyStream) -> Mapping[str, Json] | None:
    """Return the claim that binds a JWT-SVID to the key that the request names, if it names one."""
    named = [] if stream.metadata is None else stream.metadata.getall(KEY_HEADER, [])
    if not named:
        return None
    if len(named) > 1 or not is_thumbprint(named[0]):
        raise _invalid(f"the metadata `{KEY_HEADER}` is not one SHA-256 thumbprint of a key")
    return {"cnf": {"jkt": str(named[0])}}


def _invalid(sentence: str) -> GRPCError:
    return GRPCError(Status.INVALID_ARGUMENT, sentence)
