"""An agent's process that calls whatever it may, and keeps every byte that it ever sees."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
from spiffe import WorkloadApiClient

ERA = "2026-07-28"
URL = os.environ["GATEWAY"]
CALLS = [each.split("/") for each in os.environ["CALLS"].split(",")]
INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "prying", "version": "1"},
}


async def main() -> None:
    with WorkloadApiClient() as workload_api:
        svid = workload_api.fetch_jwt_svid(audience={os.environ["REMIT_AUDIENCE"]}).token
    sent = {
        "authorization": f"Bearer {svid}",
        "remit-task": os.environ["TASK_TOKEN"],
        "accept": "application/json, text/event-stream",
    }
    seen: list[str] = []
    async with aiohttp.ClientSession(headers=sent) as http:

        async def post(upstream: str, body: dict[str, Any], **headers: str) -> Any:
            message = {"jsonrpc": "2.0", "id": len(seen) + 1, **body}
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            address = f"{URL}/mcp/{upstream}"
            async with http.post(address, json=message, headers=given) as got:
                told = (await got.read()).decode(errors="surrogateescape")
                seen.append(f"{got.status} {dict(got.headers)} {told}")
                return got

        meta = {
            "io.modelcontextprotocol/protocolVersion": ERA,
            "io.modelcontextprotocol/clientCapabilities": {},
            "progressToken": 1,
        }
        for upstream, tool in CALLS:
            params = {"name": tool, "arguments": {}, "_meta": meta}
            await post(
                upstream,
                {"method": "tools/call", "params": params},
                mcp_protocol_version=ERA,
                mcp_method="tools/call",
                mcp_name=tool,
            )
            opened = await post(upstream, {"method": "initialize", "params": INITIALIZE})
            session = opened.headers.get("mcp-session-id")
            older = {"mcp_session_id": session} if session else {}
            await post(upstream, {"method": "tools/list"}, **older)
            await post(
                upstream,
                {"method": "tools/call", "params": {"name": tool, "arguments": {}}},
                **older,
            )
        for operation in ("spill", "flood"):
            async with http.post(f"{URL}/egress/api/{operation}", json={}) as got:
                told = (await got.read()).decode(errors="surrogateescape")
                seen.append(f"{got.status} {dict(got.headers)} {told}")
    _keep(seen)


def _keep(seen: list[str]) -> None:
    kept = {
        "environment": dict(os.environ),
        "proc": Path("/proc/self/environ").read_bytes().decode(errors="surrogateescape"),
        "seen": seen,
    }
    Path(sys.argv[1]).write_text(json.dumps(kept))


asyncio.run(main())
