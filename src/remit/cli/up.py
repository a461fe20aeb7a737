"""`remit up`: start the authority and its gateway."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Annotated, Literal

import structlog
import uvloop
from cyclopts import Parameter

from remit.app import logs
from remit.cli.common import DEFAULTS, Common, Exit
from remit.cli.drawing import ERR
from remit.cli.hardening import forbid_tracing
from remit.model.errors import EvidenceError


def up(
    *,
    log_level: Literal["debug", "info", "warning", "error"] = "info",
    log_format: Literal["auto", "text", "json"] = "auto",
    forget_agents: Annotated[bool, Parameter(negative="")] = False,
    accept_state: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULTS,
) -> None:
    """Start the authority and its gateway, until it is interrupted.

    Parameters
    ----------
    log_level
        The least level that is logged; logs go to standard error.
    log_format
        Lines for people, or JSON; where auto, JSON unless standard error is a terminal.
    accept_state
        Start although the state was changed while remit was stopped; the log says what was found.
    forget_agents
        Say that no process of any agent runs any more, nor anything that one left behind. Else
        such processes stay the agents' over a restart.
    """
    chosen = "json" if common.json and log_format == "auto" else log_format
    logs.set_up(log_level, json=None if chosen == "auto" else chosen == "json")
    loaded = common.loaded()
    if sys.stderr.isatty() and not common.json:
        ERR.print("remit starts", style="dim")
    # The longest part of a start: what is wrong with the file is said before it, and that it began.
    from remit.app.serve import serving  # noqa: PLC0415

    forbid_tracing()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            async with serving(loaded, accept_state=accept_state, forget_agents=forget_agents):
                if not common.json:
                    ERR.print(f"remit is up at [bold]{loaded.url}[/]; stop it with Ctrl-C")
                await stop.wait()
        except EvidenceError as error:
            if not stop.is_set():
                raise
            # A thread may wait for the disk for ever, and the interpreter's own end for it.
            structlog.get_logger().error("remit ends without its disk", reason=str(error))
            os._exit(Exit.REFUSED)

    uvloop.run(main())
