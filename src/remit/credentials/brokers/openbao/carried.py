"""``hvac`` without its connections: it says what to ask and what an answer means, aiohttp asks.

``hvac`` knows each route, body and header, and which status is which error, but sends with
``requests``, which blocks. So it is given a session that hands back what it was to send; a test
holds every method that is used here to that. Nothing is taken from the environment (``VAULT_*``,
proxies), no cookie is kept, and no redirect is followed with a token in its head.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlencode

import aiohttp
import hvac
import msgspec
from hvac.adapters import RawAdapter
from hvac.utils import raise_for_error
from yarl import URL

from remit.credentials.answers import Answer, Target
from remit.model.errors import BrokerError

_MOST_BYTES = 16 * 1024 * 1024
_KEPT_SECONDS = 30.0
"""How long a connection waits for its next use; OpenBao keeps one for five minutes."""
_OK = 200
_ERROR = 400


@dataclass(frozen=True, slots=True)
class Asked:
    """What hvac would have sent; it hands on what calls itself ``ok``."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    data: bytes | None = field(repr=False)

    ok: ClassVar[bool] = True


Asking = Callable[[hvac.Client], Asked]
"""Uses a client once, and returns what its method returned."""


class _Unsent:
    """Stands where hvac expects a session of ``requests``, and sends nothing.

    It takes what is carried on and no more: an argument that it does not know is an error.
    """

    cert = proxies = verify = None

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: Any = None,
        params: Mapping[str, str] | None = None,
        allow_redirects: bool,
        cert: object,
        verify: object,
        timeout: object,
        proxies: object,
    ) -> Asked:
        """Return what was to be sent."""
        del allow_redirects, cert, verify, timeout, proxies
        if params:
            url = f"{url}?{urlencode(params)}"
        if json is None:
            return Asked(method.upper(), url, headers, None)
        headers = {**headers, "Content-Type": "application/json"}
        return Asked(method.upper(), url, headers, msgspec.json.encode(json))


class Carrier:
    """Asks one OpenBao what hvac says, over connections of its own."""

    def __init__(
        self, url: str, namespace: str | None, *, seconds: float, tls: ssl.SSLContext | bool
    ) -> None:
        self._seconds = seconds
        self._tls = tls
        self._target: Target | None = None
        self._client = hvac.Client(
            url=url.rstrip("/"),
            token="",  # none, and none from the environment or from a file in the home either
            cert=(),
            verify=True,  # nor is a file of authorities
            timeout=None,
            allow_redirects=False,
            session=_Unsent(),
            adapter=RawAdapter,
            namespace=namespace,
            strict_http=True,
        )

    def asked(self, token: str, asking: Asking) -> Asked:
        """Return what hvac would send, showing ``token``."""
        self._client.token = token
        try:
            return asking(self._client)
        finally:
            self._client.token = ""

    async def ask(self, token: str, asking: Asking) -> Any:
        """Ask, and return the answer's JSON; None where there was none.

        Raises:
            VaultError: OpenBao refused, or failed.
            NotMintedError: it was never reached.
            BrokerError: it did not answer in time, not to the end, or at too great a length.
        """
        asked = self.asked(token, asking)
        answer = await self._reached().ask(
            asked.method, URL(asked.url, encoded=True), headers=asked.headers, data=asked.data
        )
        if answer.status >= _ERROR:
            errors = _errors(answer)
            raise_for_error(asked.method, asked.url, answer.status, "no reason", errors=errors)
        return answer.json() if answer.status == _OK else None

    async def close(self) -> None:
        """Close the connections."""
        if self._target is not None:
            await self._target.http.close()

    def _reached(self) -> Target:
        if self._target is None:
            http = aiohttp.ClientSession(
                # Who mints and who revokes is bounded by the broker: neither waits here for the other.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "remit", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
                middlewares=(_once,),
            )
            self._target = Target(
                name="openbao",
                http=http,
                seconds=self._seconds,
                most_bytes=_MOST_BYTES,
                tls=self._tls,
            )
        return self._target


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request once: a GET that makes a secret is not for aiohttp to ask again."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(type(error).__name__) from None


def document(answer: object, what: str) -> Mapping[str, Any]:
    """Return an answer's JSON object.

    Raises:
        BrokerError: there was none.
    """
    if not isinstance(answer, Mapping):
        raise BrokerError(f"openbao: {what} was answered with nothing")
    return answer


def _errors(answer: Answer) -> list[str] | None:
    """Return OpenBao's words; what another server says in a page is not among them."""
    if not answer.headers.get("Content-Type", "").startswith("application/json"):
        return None
    said = answer.json()
    errors = said.get("errors") if isinstance(said, dict) else None
    return [str(each) for each in errors] if isinstance(errors, list) else None
