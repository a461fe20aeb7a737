"""Small documents from https addresses: bounded in size and time, never redirected."""

from __future__ import annotations

import asyncio
import ipaddress

import aiohttp
from yarl import URL

from remit.model.errors import ConfigError, UnavailableError

TIMEOUT_SECONDS = 5.0
_OK = 200


def require_https(address: str, what: str) -> str:
    """Return an address that may be asked: https, or http on a loopback address for trying out.

    Raises:
        ConfigError: it is any other; ``what`` names it in the message.
    """
    try:
        url = URL(address)
    except ValueError as error:
        raise ConfigError(f"{what} `{address}` is not an address") from error
    if url.user or url.password or url.fragment or not url.host:
        raise ConfigError(f"{what} `{address}` needs a host, and no user or fragment")
    if url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host)):
        return address
    raise ConfigError(f"{what} `{address}` has to be an https address")


async def fetch(
    session: aiohttp.ClientSession,
    address: str,
    *,
    max_bytes: int,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> bytes:
    """Return what is at ``address``, at most ``max_bytes`` of it.

    Redirects are refused, since they could lead off https or to another host.

    Raises:
        UnavailableError: it cannot be reached in time, answers otherwise than 200, or is too large.
    """
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            session.get(
                address, allow_redirects=False, headers={"Accept": "application/json"}
            ) as answer,
        ):
            if answer.status != _OK:
                raise UnavailableError(f"`{address}` answered with status {answer.status}")
            found = bytearray()
            async for piece in answer.content.iter_chunked(16_384):
                found += piece
                if len(found) > max_bytes:
                    raise UnavailableError(f"`{address}` is larger than {max_bytes} bytes")
            return bytes(found)
    except TimeoutError as error:
        raise UnavailableError(
            f"`{address}` did not answer within {timeout_seconds:g} seconds"
        ) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise UnavailableError(f"`{address}` cannot be reached") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
