"""Reads a target's answer to its end, and no further than a bound."""

from __future__ import annotations

import aiohttp

from remit.model.errors import BrokerError


async def read_answer(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the whole body; ``StreamReader.read(n)`` alone returns what has arrived by then.

    Raises:
        BrokerError: it is longer than ``most_bytes``.
    """
    said = bytearray()
    async for part in response.content.iter_any():
        said += part
        if len(said) > most_bytes:
            raise BrokerError(f"the target's answer is longer than {most_bytes} bytes")
    return bytes(said)
