"""A real Remit for the tests against real parts: started by its own command, asked over its socket."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult
from processes import Started, free_port, remit, running

from remit.cli.client import ControlClient

RUN_SECONDS = 60
KEEP_SECONDS = 120
_SVID = """
import os
from spiffe import WorkloadApiClient
with WorkloadApiClient() as workload_api:
    print(workload_api.fetch_jwt_svid(audience={os.environ["REMIT_AUDIENCE"]}).token)
"""


@dataclass(frozen=True)
class House:
    """A running authority and gateway."""

    config: Path
    port: int
    process: Started
    _svids: dict[str, tuple[str, float]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def control(self) -> ControlClient:
        """The control API, asked as the CLI asks it: over the socket, known by the kernel."""
        return ControlClient(self.config.parent / "state" / "control.sock")

    def run(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command of the CLI, whatever comes of it."""
        return subprocess.run(
            [str(part) for part in remit(*arguments)],
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            env={**os.environ, **(env or {})},
            check=False,
        )

    def register(self, agent: str, template: str, environment: str = "dev") -> None:
        """Register an agent that may work under one template."""
        self.control.post(
            "agents",
            body={
                "name": agent,
                "owner": "user:robin@example.com",
                "purpose": "To be tested",
                "environment": environment,
                "templates": [template],
            },
        )

    def open(self, template: str, agent: str, **narrowed: Any) -> dict[str, Any]:
        """Open a task; the answer holds its ``id`` and ``task_token``."""
        body = {"template": template, "agent": agent, **narrowed}
        opened: dict[str, Any] = self.control.post("tasks", body=body)
        return opened

    def as_agent(
        self, agent: str, *command: str | Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a registered agent, with an identity from the Workload API."""
        return self.run("run", "--config", self.config, "--agent", agent, "--", *command, env=env)

    def svid(self, agent: str) -> str:
        """Return a JWT-SVID of an agent, fetched with the unmodified `spiffe` client, kept a while."""
        token, fetched = self._svids.get(agent, ("", 0.0))
        if not token or time.monotonic() - fetched > KEEP_SECONDS:
            done = self.as_agent(agent, sys.executable, "-c", _SVID)
            assert done.returncode == 0, done.stderr
            token = done.stdout.strip()
            self._svids[agent] = (token, time.monotonic())
        return token

    def records(self, task: str) -> Sequence[dict[str, Any]]:
        """Return the evidence of one task."""
        records: Sequence[dict[str, Any]] = self.control.get("evidence", "tasks", task)["records"]
        return records

    @contextlib.asynccontextmanager
    async def client(
        self, upstream: str, agent: str, task_token: str, mode: str = "auto"
    ) -> AsyncIterator[Client]:
        """Connect the SDK's client to one upstream, as an agent under a task."""
        headers = {"Authorization": f"Bearer {self.svid(agent)}", "Remit-Task": task_token}
        async with httpx2.AsyncClient(headers=headers, timeout=RUN_SECONDS) as http:
            transport = streamable_http_client(f"{self.url}/mcp/{upstream}", http_client=http)
            async with Client(transport, mode=mode) as client:  # type: ignore[arg-type]
                yield client


def effect(result: object) -> str:
    """Return what became of a call, as its result says it."""
    assert isinstance(result, CallToolResult)
    told: dict[str, str] = (result.meta or {}).get("dev.remit/decision", {"effect": "permit"})
    return told["effect"]


def words(result: object) -> str:
    """Return the text of a tool result."""
    assert isinstance(result, CallToolResult)
    return "\n".join(block.text for block in result.content if block.type == "text")


def refused_by(records: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the policies that refused, one tuple a denied decision, in order."""
    return [
        tuple(policy["id"] for policy in record["body"]["policies"])
        for record in records
        if record["kind"] == "call.decided" and record["body"]["effect"] == "deny"
    ]


@contextlib.contextmanager
def house(folder: Path, upstreams: str, templates: Path) -> Iterator[House]:
    """Run `remit up` in ``folder``; ``upstreams`` is the TOML of its ``[upstream.NAME]`` tables."""
    port = free_port()
    config = folder / "remit.toml"
    config.write_text(
        f"""[authority]
state = "state"
trust_domain = "real.test"
listen = "127.0.0.1:{port}"

[policy]
templates = {json.dumps(str(templates))}

{upstreams}
"""
    )
    with running(remit("up", "--config", config), log=folder / "remit.log", port=port) as process:
        yield House(config, port, process)
