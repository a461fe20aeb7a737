"""Asks a target over HTTP, the way every broker does: once, in bounded time, for a bounded answer.

No redirect is followed: it would take a secret elsewhere. What went wrong is told by its kind
alone, never with what was sent or answered.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from remit.model.errors import BrokerError, NotMintedError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a target said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's JSON; None where there is none, or what cannot be read as it."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is asked, and within which bounds.

    Args:
        name: for messages; they begin with it.
        http: the house's own client.
        seconds: how long a request may take.
        most_bytes: how long an answer may be.
        tls: whom to trust there; True is the machine's own choice.
    """

    name: str
    http: aiohttp.ClientSession
    seconds: float
    most_bytes: int
    tls: ssl.SSLContext | bool = True

    async def ask(
        self,
        method: str,
        url: str | URL,
        *,
        headers: Mapping[str, str],
        data: bytes | aiohttp.FormData | None = None,
    ) -> Answer:
        """Send one request and return the answer, whatever its status.

        Raises:
            NotMintedError: the target was never reached.
            BrokerError: it did not answer in time or not to the end, and may have done it.
        """
        try:
            async with self.http.request(
                method,
                url,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self.seconds),
                allow_redirects=False,
                ssl=self.tls,
            ) as response:
                body = await _read(response, self.most_bytes)
                return Answer(response.status, response.headers, body)
        except aiohttp.ClientConnectorError as error:
            why = type(error.os_error).__name__
            raise NotMintedError(f"{self.name} is not reached: {why}") from None
        except TimeoutError:
            raise BrokerError(
                f"{self.name} did not answer within {self.seconds:g} seconds"
            ) from None
        except aiohttp.ClientError as error:
            raise BrokerError(f"{self.name} does not answer: {type(error).__name__}") from None


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the whole body; ``StreamReader.read(n)`` alone returns what has arrived by then."""
    said = bytearray()
    async for part in response.content.iter_any():
        said += part
        if len(said) > most_bytes:
            raise BrokerError(f"the target's answer is longer than {most_bytes} bytes")
    return bytes(said)
