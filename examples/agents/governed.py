"""What an agent needs to work through Remit: who it is, what for, and the MCP SDK.

There is no secret to hand out here. The identity comes from the Workload API, which knows the
agent's process from the kernel; the task token says what the agent works for. Both travel with every
request, and so does a proof that the sender holds a key (DPoP, RFC 9449) which this process made and
keeps in memory: what somebody captures on the way is of no use to them.

    SPIFFE_ENDPOINT_SOCKET  where the Workload API listens (read by the `spiffe` client)
    REMIT_URL               the authority, such as http://127.0.0.1:7480
    REMIT_TASK              the task token
    REMIT_AUDIENCE          who the identity is shown to; `remit` where nothing else is said
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Generator
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult
from spiffe import WorkloadApiClient

from remit.proof.dpop import ProofKey

DECISION = "dev.remit/decision"
_CALL_SECONDS = 60.0
_FRESH_SECONDS = 30.0


class Identity(httpx2.Auth):
    """Shows a fresh JWT-SVID and the task token with every request, and proves who sends them."""

    def __init__(self, audience: str, task_token: str) -> None:
        self._audience = audience
        self._task_token = task_token
        self._key = ProofKey.generate()
        self._token = ""
        self._expires_at = 0.0

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response]:
        """Add the three headers to one request."""
        if time.time() > self._expires_at - _FRESH_SECONDS:
            with WorkloadApiClient() as workload_api:
                svid = workload_api.fetch_jwt_svid(audience={self._audience})
            self._token, self._expires_at = svid.token, float(svid.expiry)
        proof = self._key.prove(request.method, str(request.url), self._token)
        request.headers["Authorization"] = f"DPoP {self._token}"
        request.headers["DPoP"] = proof
        request.headers["Remit-Task"] = self._task_token
        yield request


class Agent:
    """Calls tools, prints one JSON line a call, and goes on after a refusal."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._url = os.environ["REMIT_URL"].rstrip("/")
        self._identity = Identity(
            os.environ.get("REMIT_AUDIENCE", "remit"), os.environ["REMIT_TASK"]
        )
        self._open: dict[str, Client] = {}

    @contextlib.asynccontextmanager
    async def working(self, *upstreams: str) -> AsyncIterator[Agent]:
        """Connect to each upstream for as long as the block runs."""
        async with contextlib.AsyncExitStack() as stack:
            for upstream in upstreams:
                http = httpx2.AsyncClient(auth=self._identity, timeout=_CALL_SECONDS)
                await stack.enter_async_context(http)
                over = streamable_http_client(f"{self._url}/mcp/{upstream}", http_client=http)
                self._open[upstream] = await stack.enter_async_context(Client(over))
            yield self

    async def call(self, tool: str, **arguments: Any) -> Any:
        """Call ``upstream/tool``; return what it answered, or None where it was refused or failed.

        A refusal is a tool result in plain words. A model would read them and choose what to do
        next; here they become the ``reason`` of the printed line.
        """
        upstream, _, name = tool.partition("/")
        try:
            result = await self._open[upstream].call_tool(name, arguments)
        except MCPError as error:
            told = error.error.data if isinstance(error.error.data, dict) else {}
            if DECISION not in told:
                raise
            self._say(tool, told[DECISION]["effect"], error.error.message)
            return None
        if not isinstance(result, CallToolResult):
            raise TypeError(f"`{tool}` asked for input that this agent cannot give")
        words = "\n".join(block.text for block in result.content if block.type == "text")
        decision = (result.meta or {}).get(DECISION, {"effect": "permit"})
        refused = decision["effect"] != "permit"
        self._say(tool, decision["effect"], words if refused or result.is_error else None)
        if refused or result.is_error:
            return None
        return result.structured_content or words

    def _say(self, tool: str, effect: str, reason: str | None) -> None:
        line = {"agent": self._name, "tool": tool, "effect": effect, "reason": reason}
        print(json.dumps(line), flush=True)
