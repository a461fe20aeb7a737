"""A small Workload API client, for the command line and for agents that want nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from remit.identity.workload_api import workload_pb2 as pb
from remit.identity.workload_api.service import KEY_HEADER, SECURITY_HEADER, SERVICE
from remit.model.errors import ConfigError, InputError, UnavailableError, UnidentifiedError

_METADATA = {SECURITY_HEADER: "true"}
_REFUSED = {Status.PERMISSION_DENIED, Status.UNAUTHENTICATED}


@dataclass(frozen=True, slots=True)
class FetchedX509:
    """An X509-SVID as fetched: concatenated DER chain and authorities, PKCS#8 DER key."""

    spiffe_id: str
    chain: bytes
    private_key: bytes = field(repr=False)
    bundle: bytes


class WorkloadClient:
    """Fetches identities from ``endpoint``, the value of ``SPIFFE_ENDPOINT_SOCKET``.

    Raises:
        ConfigError: the endpoint is not ``unix:/path`` or ``unix:///path``.
    """

    def __init__(self, endpoint: str, *, timeout_seconds: float = 10.0) -> None:
        path = endpoint.removeprefix("unix:")
        if path.startswith("///"):
            path = path[2:]
        if not endpoint.startswith("unix:/") or path.startswith("//"):
            raise ConfigError(f"`{endpoint}` is not a Workload API endpoint: unix:///path")
        self._path = path
        self._seconds = timeout_seconds
        self._channel: Channel | None = None

    async def __aenter__(self) -> Self:
        self._channel = Channel(path=self._path)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def fetch_jwt_svid(
        self, audience: str | Sequence[str], *, spiffe_id: str = "", key: str | None = None
    ) -> str:
        """Return a JWT-SVID for ``audience``, in compact form.

        ``key`` is the thumbprint of a key of this process, which the JWT-SVID is to be bound to.

        Raises:
            UnidentifiedError: this process has no identity.
            InputError: the authority calls the request malformed.
            UnavailableError: the authority does not answer.
        """
        audiences = [audience] if isinstance(audience, str) else list(audience)
        method = UnaryUnaryMethod[Any, Any](
            self._open(), f"{SERVICE}FetchJWTSVID", pb.JWTSVIDRequest, pb.JWTSVIDResponse
        )
        request = pb.JWTSVIDRequest(audience=audiences, spiffe_id=spiffe_id)
        async with _our_errors():
            metadata = _METADATA if key is None else {**_METADATA, KEY_HEADER: key}
            reply = await method(request, timeout=self._seconds, metadata=metadata)
        if not reply.svids:
            raise UnidentifiedError("the authority issued no identity")
        return str(reply.svids[0].svid)

    async def fetch_x509_svid(self) -> FetchedX509:
        """Return an X509-SVID, as it stands now.

        Raises:
            UnidentifiedError: this process has no identity.
            UnavailableError: the authority does not answer.
        """
        async with asyncio.timeout(self._seconds):
            async for one in self.watch_x509_svid():
                return one
        raise UnavailableError("the authority ended the stream without an identity")

    async def watch_x509_svid(self) -> AsyncIterator[FetchedX509]:
        """Yield the X509-SVID, and each that replaces it, until the authority ends the stream.

        Raises:
            UnidentifiedError: this process has no identity, or no longer.
            UnavailableError: the authority does not answer.
        """
        method = UnaryStreamMethod[Any, Any](
            self._open(), f"{SERVICE}FetchX509SVID", pb.X509SVIDRequest, pb.X509SVIDResponse
        )
        async with _our_errors(), method.open(metadata=_METADATA) as stream:
            await stream.send_message(pb.X509SVIDRequest(), end=True)
            async for reply in stream:
                svid = reply.svids[0]
                yield FetchedX509(svid.spiffe_id, svid.x509_svid, svid.x509_svid_key, svid.bundle)

    def _open(self) -> Channel:
        if self._channel is None:
            raise ConfigError("the workload client is used outside its `async with`")
        return self._channel


@asynccontextmanager
async def _our_errors() -> AsyncIterator[None]:
    try:
        yield
    except GRPCError as error:
        if error.status in _REFUSED:
            raise UnidentifiedError(f"the authority refused: {error.message}") from error
        if error.status is Status.INVALID_ARGUMENT:
            raise InputError(f"the authority refused: {error.message}") from error
        raise UnavailableError(f"the authority failed: {error.message}") from error
    except (OSError, StreamTerminatedError, TimeoutError) as error:
        raise UnavailableError("the authority does not answer at its Workload API") from error
