"""An upstream over streamable HTTP: one pooled client, bytes forwarded, streams left streams."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import aiohttp
import structlog
from yarl import URL

from remit.gateway.options import UpstreamOptions
from remit.gateway.presenting import presenting, trusting
from remit.gateway.upstream import Outgoing
from remit.gateway.wire import headers_down
from remit.model.errors import UpstreamError

log = structlog.get_logger()

_POOL = 512
_KEEP_ALIVE_SECONDS = 60
_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class UnreachableError(UpstreamError):
    """The request was certainly not delivered: there was no connection to send it on."""


class Client:
    """The one pooled HTTP client of the gateway, made when it is first needed."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._alone: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool. It keeps no cookies, reads no environment and follows nothing."""
        if self._session is None:
            self._session = _session(
                aiohttp.TCPConnector(
                    limit=_POOL, keepalive_timeout=_KEEP_ALIVE_SECONDS, enable_cleanup_closed=False
                )
            )
        return self._session

    @property
    def alone(self) -> aiohttp.ClientSession:
        """The same, but that no connection serves a second request: for those of one lease."""
        if self._alone is None:
            self._alone = _session(aiohttp.TCPConnector(limit=_POOL, force_close=True))
        return self._alone

    async def close(self) -> None:
        """Close every connection."""
        for session in (self._session, self._alone):
            if session is not None:
                await session.close()
        self._session = self._alone = None


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_AUTOMATIC,
        trust_env=False,
    )


class HttpUpstream:
    """Forwards to one URL.

    Raises:
        ConfigError: the file of authorities cannot be read.
    """

    def __init__(self, options: UpstreamOptions, client: Client) -> None:
        self.options = options
        self._tls: ssl.SSLContext | bool = True
        if options.ca_file is not None:
            self._tls = trusting(options.ca_file, f"upstream `{options.name}`")
        self._client = client
        self._url = URL(options.url or "")
        self._trouble: str | None = f"upstream `{options.name}` has not answered anything yet"

    async def send(self, request: Outgoing) -> HttpAnswer:
        """Send the request's bytes as they are.

        Raises:
            UnreachableError: nothing listens, or not within ``connect_seconds``; or the credential
                does not fit into the handshake.
            UpstreamError: the upstream broke off, fell silent, or asked for what is not ours to
                give (a redirect, a token).
        """
        options = self.options
        quiet = request.quiet
        # Every byte of a head begins the socket's own time anew: the head has one of its own.
        seconds = None if quiet else options.connect_seconds + options.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                session, tls = await self._connecting(request)
                response = await session.request(
                    request.method,
                    self._url,
                    headers=[*request.headers, ("accept-encoding", "identity")],
                    data=request.message.body if request.message is not None else None,
                    allow_redirects=False,
                    ssl=tls,
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        connect=options.connect_seconds,
                        sock_read=None if quiet else options.answer_seconds,
                    ),
                )
        except aiohttp.ClientConnectorCertificateError as error:
            self._trouble = f"upstream `{options.name}` shows a certificate that does not hold"
            raise UnreachableError(self._trouble) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._trouble = f"upstream `{options.name}` cannot be reached"
            raise UnreachableError(self._trouble) from error
        except TimeoutError as error:
            self._trouble = (
                f"upstream `{options.name}` did not answer within {options.answer_seconds:g} s"
            )
            raise UpstreamError(self._trouble) from error
        except (aiohttp.ClientError, OSError) as error:
            self._trouble = f"upstream `{options.name}` broke off before it answered"
            raise UpstreamError(self._trouble) from error
        return await self._checked(response)

    async def _connecting(
        self, request: Outgoing
    ) -> tuple[aiohttp.ClientSession, ssl.SSLContext | bool]:
        """Return what makes the connection: one of the pool's, or one of its own that shows a lease's."""
        options = self.options
        try:
            pem = options.inject.certificate_for(request.credential)
            if pem is None:
                return self._client.session, self._tls
            shown = await asyncio.to_thread(presenting, pem, options.ca_file)
        except UpstreamError as error:
            raise UnreachableError(str(error)) from error
        return self._client.alone, shown

    async def _checked(self, response: aiohttp.ClientResponse) -> HttpAnswer:
        name, status = self.options.name, response.status
        wrong = None
        if not 200 <= status < 600:  # noqa: PLR2004 - the classes of final answers
            wrong = f"upstream `{name}` answered with a status that http does not have"
        elif 300 <= status < 400 and status != 304:  # noqa: PLR2004 - the class of redirects
            wrong = f"upstream `{name}` answered with a redirect, which is not followed"
        elif status in {401, 407}:
            wrong = f"upstream `{name}` wants a credential that remit does not have for it"
        if wrong is not None:
            response.close()
            self._trouble = wrong
            raise UpstreamError(wrong)
        self._trouble = None
        return HttpAnswer(response, name)

    def health(self) -> str | None:
        """Return what went wrong at the last contact, if anything did."""
        return self._trouble

    async def retire(self, owner: str) -> None:
        """Nothing runs for one owner of an HTTP upstream."""

    async def close(self) -> None:
        """Nothing runs for an HTTP upstream; the pool is the gateway's."""


class HttpAnswer:
    """An answer whose body is still coming."""

    def __init__(self, response: aiohttp.ClientResponse, name: str) -> None:
        self.status = response.status
        self.headers = headers_down(response.raw_headers)
        self._response = response
        self._name = name

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in the pieces it comes in.

        Raises:
            UpstreamError: the upstream broke off or fell silent.
        """
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except TimeoutError as error:
            raise UpstreamError(f"upstream `{self._name}` fell silent") from error
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise UpstreamError(f"upstream `{self._name}` broke off its answer") from error

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else cut it."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
