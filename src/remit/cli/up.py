"""`remit up`: start the authority and its gateway."""

from __future__ import annotations

import asyncio
import signal
from typing import Literal

import uvloop

from remit.app import logs
from remit.app.serve import serving
from remit.cli.common import DEFAULTS, Common
from remit.cli.drawing import ERR
from remit.cli.hardening import forbid_tracing


def up(
    *,
    log_level: Literal["debug", "info", "warning", "error"] = "info",
    log_format: Literal["auto", "text", "json"] = "auto",
    common: Common = DEFAULTS,
) -> None:
    """Start the authority and its gateway, until it is interrupted.

    Parameters
    ----------
    log_level
        The least level that is logged; logs go to standard error.
    log_format
        Lines for people, or JSON; where auto, JSON unless standard error is a terminal.
    """
    chosen = "json" if common.json and log_format == "auto" else log_format
    logs.set_up(log_level, json=None if chosen == "auto" else chosen == "json")
    loaded = common.loaded()
    forbid_tracing()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with serving(loaded):
            if not common.json:
                ERR.print(f"remit is up at [bold]{loaded.url}[/]; stop it with Ctrl-C")
            await stop.wait()

    uvloop.run(main())
