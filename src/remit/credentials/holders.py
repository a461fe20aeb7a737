"""Who holds a credential in their hands: asked to let go of it before its lease counts as over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()

LetGo = Callable[[str], Awaitable[None]]
"""Stop whatever uses the credential of the lease with this id, and return when it is stopped."""


class Holders:
    """Everybody that a credential is handed to."""

    def __init__(self) -> None:
        self._holders: list[LetGo] = []

    def add(self, let_go: LetGo) -> None:
        """Take note of one more."""
        self._holders.append(let_go)

    async def let_go(self, lease_id: str, seconds: float) -> bool:
        """Have all of them let go; return whether they all did, within ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(let_go(lease_id) for let_go in self._holders))
        except Exception as error:  # noqa: BLE001 - whatever it was, the lease is not over yet
            log.warning("a credential is held still", lease=lease_id, reason=type(error).__name__)
            return False
        return True
