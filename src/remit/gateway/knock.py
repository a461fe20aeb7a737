"""Asks a gateway whether it serves an upstream, before anything is carried to it."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

import aiohttp

from remit.model.errors import ConfigError

_SECONDS = 5.0
_NOT_FOUND = 404


async def require_upstream(url: str, upstream: str, known: Iterable[str] = ()) -> None:
    """Return if the gateway at ``url`` serves ``upstream``, or cannot be asked.

    Args:
        url: the authority's address, without a path.
        upstream: the name as it was typed.
        known: names to show if it does not.

    Raises:
        ConfigError: it says that there is no such upstream (RFC 9728 metadata: 404).
    """
    address = f"{url}/.well-known/oauth-protected-resource/mcp/{quote(upstream, safe='')}"
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(address, allow_redirects=False) as answer,
        ):
            status = answer.status
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        # Whoever carries the first message says so, with what to do.
        return
    if status == _NOT_FOUND:
        names = ", ".join(f"`{name}`" for name in sorted(known))
        told = f": choose one of {names}" if names else ": `remit doctor` lists those it has"
        raise ConfigError(f"the authority at `{url}` has no upstream `{upstream[:64]}`{told}")
