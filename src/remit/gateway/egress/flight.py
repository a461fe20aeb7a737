"""One call of an HTTP API: sent with its credential, answered as it comes, its end held back.

Nobody hears that it is done before the outcome is durable (promise 2): an answer that is short is
told whole afterwards, a long one is streamed, and its last piece waits. A call is sent once, on a
connection of its own: no answer can be mistaken for another's, and no proxy of ours repeats it.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from remit.gateway.egress import headers as passing
from remit.gateway.egress.addresses import PrivateAddressError
from remit.gateway.egress.operations import Matched
from remit.gateway.egress.service import Service
from remit.gateway.forward import UnreachableError
from remit.gateway.in_flight import InFlight
from remit.gateway.leaks import LeakGuard, merged
from remit.gateway.presenting import presenting
from remit.gateway.reply import Headers, Reply
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.errors import UpstreamError
from remit.model.label import Label
from remit.model.lease import Credential
from remit.model.outcome import Ending, Leak, Outcome

HOLD_BYTES = 256 * 1024
"""An answer up to this is told whole, after its outcome is durable."""

_KEPT_BYTES = 64 * 1024
_FAILURES = 400
_FINAL = range(200, 600)
_REDIRECTS = range(300, 400)
_NOT_MODIFIED = 304
_NO_CONTENT = 204
_REFUSED = {401, 407}
_READABLE = {"", "identity", "gzip", "x-gzip", "deflate"}
_QUIET = {"GET", "HEAD"}
_EVENTS = "text/event-stream"
"""Has no length that anybody knows: it is long from its first piece on."""
_SHOWN = 100


class RefusedError(UpstreamError):
    """The service answered, but with nothing that a client may have; the call is known to have failed."""


@dataclass(slots=True)
class Flight:
    """Makes one request (the spine's ``Act``); :meth:`land` tells what was held back."""

    service: Service
    request: Matched
    headers: list[tuple[str, str]] = field(repr=False)
    session: aiohttp.ClientSession
    reply: Reply
    guard: LeakGuard
    in_flight: InFlight
    status: int = 0
    down: Headers = field(default_factory=list, repr=False)
    held: bytes = field(default=b"", repr=False)
    answered: bool = False
    _leaks: list[Leak] = field(default_factory=list, repr=False)

    async def act(self, call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        """Make the call.

        Raises:
            UnreachableError: it was certainly not delivered.
            UpstreamError: policy asks for what the gateway cannot do.
        """
        if decision.obligations:
            raise UpstreamError("policy asks for an obligation that the gateway cannot meet")
        began = time.monotonic()
        ending, detail = Ending.SUCCEEDED, None
        try:
            async with self.in_flight.limited(credential, self.service.call_seconds):
                await self._exchange(call, credential)
        except UnreachableError:
            raise
        except (UpstreamError, TimeoutError) as error:
            said = str(error) or f"service `{self.service.name}` took too long"
            detail = self._clean(said)
            ending = Ending.FAILED if isinstance(error, RefusedError) else Ending.UNKNOWN
        if self.answered and self.status >= _FAILURES:
            ending, detail = Ending.FAILED, f"http {self.status}"
        return Outcome(
            ending=ending,
            target=call.target,
            seconds=time.monotonic() - began,
            detail=detail,
            label=Label(trusted=self.service.trusted),
            result=self.held[:_KEPT_BYTES],
            leaks=merged(self._leaks),
        )

    async def land(self) -> None:
        """Tell the client the rest: how the call ended is durable."""
        if self.reply.started:
            await self.reply.end(self.held)
        elif self.request.operation.method == "HEAD" or self.status in {_NO_CONTENT, _NOT_MODIFIED}:
            # These have no body, and a length would be that of another answer (RFC 9110 8.6).
            await self.reply.start(self.status, self.down)
            await self.reply.end()
        else:
            await self.reply.whole(self.status, self.down, self.held)

    def _clean(self, text: str) -> str:
        cleaned, leaks = self.guard.clean_text(text)
        self._leaks += leaks
        return cleaned

    async def _exchange(self, call: Call, credential: Credential | None) -> None:
        url = self.service.base + self.request.path
        headers, method = self.headers, self.request.operation.method
        if credential is not None:
            try:
                headers = self.service.inject.put_headers(headers, credential, method, url)
            except UpstreamError as error:
                raise UnreachableError(str(error)) from error
        if self.request.query:
            url += "?" + self.request.query
        response = await self._sent(method, url, headers, await self._tls(credential))
        try:
            self._look(response)
            self.down = [
                (name, self._clean(value.decode("latin-1")).encode("latin-1"))
                for name, value in passing.down(response.raw_headers, self.service)
            ]
            self.down.append((b"remit-call", call.id.encode()))
            await self._read(response)
        except TimeoutError as error:
            raise UpstreamError(f"service `{self.service.name}` fell silent") from error
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise UpstreamError(f"service `{self.service.name}` broke off its answer") from error
        finally:
            response.close()

    async def _tls(self, credential: Credential | None) -> ssl.SSLContext | bool:
        """Return what the connection is made with: it shows the lease's certificate, if it has one.

        Raises:
            UnreachableError: the broker gave none, or one that cannot be shown.
        """
        service = self.service
        try:
            pem = service.inject.certificate_for(credential)
            if pem is None:
                return service.tls or True
            return await asyncio.to_thread(presenting, pem, service.ca_file)
        except UpstreamError as error:
            raise UnreachableError(str(error)) from error

    async def _sent(
        self,
        method: str,
        url: str,
        headers: list[tuple[str, str]],
        tls: ssl.SSLContext | bool,  # noqa: FBT001 - as aiohttp takes it
    ) -> aiohttp.ClientResponse:
        service = self.service
        try:
            # Every byte of a head begins the socket's own time anew: the head has one of its own.
            async with asyncio.timeout(service.connect_seconds + service.answer_seconds):
                return await self.session.request(
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    # As a file, which aiohttp writes in pieces.
                    data=io.BytesIO(self.request.body) if self.request.body else None,
                    allow_redirects=False,
                    ssl=tls,
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        connect=service.connect_seconds,
                        sock_read=service.answer_seconds,
                    ),
                )
        except aiohttp.ClientConnectorCertificateError as error:
            raise UnreachableError(
                f"service `{service.name}` shows a certificate that does not hold"
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if isinstance(error.__cause__, PrivateAddressError):
                raise UnreachableError(
                    f"service `{service.name}` is at an address that is not public: say "
                    "`private = true` if agents may reach into your network there"
                ) from error
            raise UnreachableError(f"service `{service.name}` cannot be reached") from error
        except TimeoutError as error:
            raise UpstreamError(
                f"service `{service.name}` did not answer within {service.answer_seconds:g} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"service `{service.name}` broke off before it answered") from error

    def _look(self, response: aiohttp.ClientResponse) -> None:
        """Refuse an answer that no client may have.

        Raises:
            RefusedError: the call is known to have failed.
            UpstreamError: the call may have been carried out.
        """
        name, status = self.service.name, response.status
        if status not in _FINAL:
            raise UpstreamError(f"service `{name}` answered with a status that http does not have")
        if status in _REDIRECTS and status != _NOT_MODIFIED:
            said = f"service `{name}` answered with a redirect{_where(response)}"
            # After anything else than a look, a redirect may be how success is told.
            kind = RefusedError if self.request.operation.method in _QUIET else UpstreamError
            raise kind(f"{said}, which is not followed")
        if status in _REFUSED:
            raise RefusedError(f"service `{name}` refused the credential that remit has for it")
        if response.headers.get("content-encoding", "").strip().lower() not in _READABLE:
            raise UpstreamError(f"service `{name}` answered in a coding that cannot be read")
        self.status = status

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        """Read to the end; stream what is long, but for its last piece.

        An event is told when the next one comes: nobody knows before that it was not the last.
        """
        body, size = bytearray(), 0
        chunks = response.content.iter_any()
        async for chunk in chunks:
            size = self._grown(size, chunk)
            body += chunk
            if size > HOLD_BYTES or response.content_type == _EVENTS:
                break
        else:
            self.held, leaks = self.guard.clean(bytes(body))
            self._leaks += leaks
            self.answered = True
            return
        streamed = self.guard.stream()
        try:
            await self.reply.start(self.status, self.down)
            waiting = streamed.feed(bytes(body))
            async for chunk in chunks:
                size = self._grown(size, chunk)
                if waiting:
                    await self.reply.chunk(waiting)
                waiting = streamed.feed(chunk)
            self.held = waiting + streamed.end()
        finally:
            self._leaks += streamed.leaks
        self.answered = True

    def _grown(self, size: int, chunk: bytes) -> int:
        size += len(chunk)
        if size > self.service.max_answer_bytes:
            raise UpstreamError(
                f"service `{self.service.name}` answered with more than "
                f"{self.service.max_answer_bytes} bytes"
            )
        return size


def _where(response: aiohttp.ClientResponse) -> str:
    """Return the host that a redirect leads to, in words; its path may hold what is nobody's."""
    try:
        host = urlsplit(response.headers.get("location", "")).hostname
    except ValueError:
        return ""
    return f" to `{host[:_SHOWN]}`" if host and host.isprintable() else ""
