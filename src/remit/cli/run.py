"""`remit run`: start an agent so that the kernel can tell which one it is."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from remit.cli.common import DEFAULTS, Common
from remit.cli.run_agent import run_agent
from remit.model.errors import ConfigError


def run(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    agent: str,
    common: Common = DEFAULTS,
) -> int:
    """Run a command as a registered agent: its process is registered before it executes.

    Everything it starts carries the same identity, which it fetches from the Workload API at
    SPIFFE_ENDPOINT_SOCKET. The exit status is the command's own.

    Parameters
    ----------
    command
        The command and its arguments, after `--`.
    agent
        The registered agent.
    """
    if not command:
        raise ConfigError("say what to run: remit run --agent NAME -- COMMAND …")
    loaded = common.loaded()
    environment = {
        **os.environ,
        "SPIFFE_ENDPOINT_SOCKET": f"unix:{loaded.workload_socket}",
        "REMIT_URL": loaded.url,
        "REMIT_AUDIENCE": loaded.config.authority.audience,
    }
    return run_agent(
        list(command), agent=agent, socket=loaded.control_socket, environment=environment
    )
