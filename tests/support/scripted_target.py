"""A target that answers as a test says, and what a broker needs to be asked for a credential there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from remit.credentials.port import Broker, Surroundings
from remit.testing.broker_suite import Lab

INSTALLATION = "remit-0a1b2c3d"


@dataclass
class Script:
    """``answers`` are given one after the other, the last of them again and again."""

    url: str = ""
    answers: list[tuple[int, bytes]] = field(default_factory=lambda: [(200, b"")])
    headers: dict[str, str] = field(default_factory=dict)
    hang: asyncio.Event | None = None
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and body of each request."""


@asynccontextmanager
async def scripted() -> AsyncIterator[Script]:
    """Serve a script on loopback."""
    made = Script()

    async def answer(request: web.Request) -> web.Response:
        made.asked.append((request.method, request.raw_path, await request.text()))
        if made.hang is not None:
            await made.hang.wait()
        status, body = made.answers.pop(0) if len(made.answers) > 1 else made.answers[0]
        return web.Response(status=status, body=body, headers=made.headers)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    if made.hang is not None:
        made.hang.set()
    await runner.cleanup()


def surroundings(folder: Path, http: Any = None, signer: Any = None) -> Surroundings:
    """Return what a broker may use of the house."""
    return Surroundings(
        http=http,
        clock=lambda: datetime.now(UTC),
        signer=signer,
        installation=INSTALLATION,
        state=folder,
        path=lambda text: folder / text,
    )


class _Target:
    installation = INSTALLATION

    def __init__(self, broker: Broker, grant: Mapping[str, Any]) -> None:
        self.broker, self.grant = broker, grant


def lab(broker: Broker, grant: Mapping[str, Any]) -> Lab:
    """Return what makes orders of a grant."""
    return Lab(_Target(broker, grant))  # type: ignore[arg-type]
