"""`remit gateway stdio`: the gateway for MCP clients that start a process."""

from __future__ import annotations

import asyncio
import os

from cyclopts import App

from remit.app import logs
from remit.cli.common import DEFAULTS, Common
from remit.gateway.bridge import bridge
from remit.gateway.knock import require_upstream
from remit.identity.workload_api.client import WorkloadClient
from remit.model.errors import ConfigError
from remit.proof.dpop import ProofKey

app = App(name="gateway", help="Reach the gateway from clients that start a process.")


@app.command
def stdio(*, upstream: str, common: Common = DEFAULTS) -> None:
    """Speak MCP on standard input and output, through the running authority, to one upstream.

    Start it under `remit run --agent NAME --`, so that it has an identity. A task token is taken
    from REMIT_TASK where it is set; without one the agent begins tasks with the gateway's tools.

    Parameters
    ----------
    upstream
        The configured upstream.
    """
    # Standard output is the client's: one line of a log there breaks its session.
    logs.set_up("warning")
    loaded = common.loaded()
    url = os.environ.get("REMIT_URL", loaded.url)
    audience = os.environ.get("REMIT_AUDIENCE", loaded.config.authority.audience)
    endpoint = os.environ.get("SPIFFE_ENDPOINT_SOCKET", f"unix:{loaded.workload_socket}")
    if not endpoint.startswith("unix:"):
        raise ConfigError("SPIFFE_ENDPOINT_SOCKET is not a unix: address")

    key = ProofKey.generate()

    async def main() -> None:
        await require_upstream(url, upstream, loaded.config.upstreams)
        async with WorkloadClient(endpoint) as workload:

            async def token() -> str:
                return await workload.fetch_jwt_svid(audience, key=key.thumbprint)

            await bridge(
                f"{url}/mcp/{upstream}",
                token=token,
                task_token=os.environ.get("REMIT_TASK"),
                key=key,
            )

    asyncio.run(main())
