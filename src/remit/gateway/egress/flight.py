"""One call of an HTTP API: sent with its credential, answered as it comes, its end held back.

Nobody hears that it is done before the outcome is durable (promise 2): an answer that is short is
told whole afterwards, a long one is streamed, and its last piece waits.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from remit.gateway.egress.addresses import PrivateAddressError
from remit.gateway.egress.operations import Request
from remit.gateway.egress.service import Service
from remit.gateway.forward import UnreachableError
from remit.gateway.leaks import LeakGuard
from remit.gateway.reply import Headers, Reply
from remit.gateway.wire import headers_down
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.errors import UpstreamError
from remit.model.label import Label
from remit.model.lease import Credential
from remit.model.outcome import Ending, Leak, Outcome

HOLD_BYTES = 256 * 1024
"""An answer up to this is told whole, after its outcome is durable."""

_KEPT_BYTES = 64 * 1024
_REDIRECTS = range(300, 400)
_NOT_MODIFIED = 304


@dataclass(slots=True)
class Flight:
    """Makes one request (the spine's ``Act``); :meth:`land` tells what was held back."""

    service: Service
    request: Request
    headers: list[tuple[str, str]] = field(repr=False)
    session: aiohttp.ClientSession
    reply: Reply
    guard: LeakGuard
    status: int = 0
    down: Headers = field(default_factory=list, repr=False)
    held: bytes = field(default=b"", repr=False)
    answered: bool = False

    async def act(self, call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        """Make the call.

        Raises:
            UnreachableError: it was certainly not delivered.
            UpstreamError: policy asks for what the gateway cannot do.
        """
        if decision.obligations:
            raise UpstreamError("policy asks for an obligation that the gateway cannot meet")
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.service.call_seconds):
                leaks = await self._exchange(credential)
        except UnreachableError:
            raise
        except (UpstreamError, TimeoutError) as error:
            said = str(error) or f"service `{self.service.name}` took too long"
            return Outcome(
                ending=Ending.UNKNOWN,
                target=call.target,
                seconds=time.monotonic() - began,
                detail=said,
            )
        failed = self.status >= 400  # noqa: PLR2004 - HTTP's classes
        return Outcome(
            ending=Ending.FAILED if failed else Ending.SUCCEEDED,
            target=call.target,
            seconds=time.monotonic() - began,
            detail=f"http {self.status}" if failed else None,
            label=Label(trusted=self.service.trusted),
            result=self.held[:_KEPT_BYTES],
            leaks=leaks,
        )

    async def land(self) -> None:
        """Tell the client the rest: how the call ended is durable."""
        if self.reply.started:
            await self.reply.end(self.held)
        else:
            await self.reply.whole(self.status, self.down, self.held)

    async def _exchange(self, credential: Credential | None) -> tuple[Leak, ...]:
        url = self.service.base + self.request.path.decode("ascii")
        headers = self.headers
        if credential is not None:
            inject = self.service.inject
            headers = inject.put_headers(headers, credential, self.request.method, url)
        if self.request.query:
            url += "?" + self.request.query.decode("ascii")
        response = await self._sent(url, [*headers, ("accept-encoding", "identity")])
        try:
            self._look(response)
            return await self._read(response)
        except TimeoutError as error:
            raise UpstreamError(f"service `{self.service.name}` fell silent") from error
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise UpstreamError(f"service `{self.service.name}` broke off its answer") from error
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _sent(self, url: str, headers: list[tuple[str, str]]) -> aiohttp.ClientResponse:
        service = self.service
        try:
            return await self.session.request(
                self.request.method,
                URL(url, encoded=True),
                headers=headers,
                data=self.request.body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=service.connect_seconds, sock_read=service.answer_seconds
                ),
            )
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
        if response.status in _REDIRECTS and response.status != _NOT_MODIFIED:
            where = urlsplit(response.headers.get("location", "")).hostname
            other = f" to `{where}`" if where else ""
            raise UpstreamError(
                f"service `{self.service.name}` answered with a redirect{other}, which is not followed"
            )
        self.status = response.status
        self.down = headers_down(response.raw_headers)

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[Leak, ...]:
        """Read to the end; stream what is long, but for its last piece."""
        body, size = bytearray(), 0
        chunks = response.content.iter_any()
        async for chunk in chunks:
            size += len(chunk)
            body += chunk
            if size > HOLD_BYTES:
                break
        else:
            self.held, leaks = self.guard.clean(bytes(body))
            self.answered = True
            return leaks
        streamed = self.guard.stream()
        await self.reply.start(self.status, self.down)
        waiting = streamed.feed(bytes(body))
        async for chunk in chunks:
            size += len(chunk)
            if size > self.service.max_answer_bytes:
                raise UpstreamError(
                    f"service `{self.service.name}` answered with more than "
                    f"{self.service.max_answer_bytes} bytes"
                )
            if waiting:
                await self.reply.chunk(waiting)
            waiting = streamed.feed(chunk)
        self.held = waiting + streamed.end()
        self.answered = True
        return streamed.leaks
