"""`remit connect`: ready configuration for the common MCP clients."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Group
from rich.text import Text

from remit.cli.client import ControlClient, RefusedError, UnreachableError
from remit.cli.common import DEFAULTS, Common
from remit.cli.hints import meant, missing_templates, warn
from remit.model.errors import ConfigError

Client = Literal["claude-code", "claude-desktop", "cursor", "vscode", "codex", "python"]

_WHERE = {
    "claude-code": ".mcp.json in your project",
    "claude-desktop": "claude_desktop_config.json",
    "cursor": ".cursor/mcp.json",
    "vscode": ".vscode/mcp.json",
    "codex": "~/.codex/config.toml",
    "python": "your agent's code",
}


def connect(
    client: Client, *, agent: str, upstream: str | None = None, common: Common = DEFAULTS
) -> None:
    """Print configuration that puts Remit between an MCP client and your upstreams.

    Parameters
    ----------
    client
        Which client.
    agent
        The registered agent that the client acts as.
    upstream
        Only this upstream; all configured ones where left out.
    """
    loaded = common.loaded()
    names = [upstream] if upstream else sorted(loaded.config.upstreams)
    services = sorted(loaded.config.services) if client == "python" and not upstream else []
    if not loaded.config.upstreams and not services:
        where = loaded.source or "remit.toml (`remit init` writes one)"
        raise ConfigError(f"no upstream is configured: add an [upstream.NAME] to {where} first")
    if upstream is not None and upstream not in loaded.config.upstreams:
        known = meant(upstream, loaded.config.upstreams)
        raise ConfigError(f"no upstream `{upstream}` is configured in `{loaded.source}`{known}")
    config = str(loaded.source.resolve()) if loaded.source else None
    text = _text(client, agent, names, config, loaded.url)
    text += "".join(_SERVICE.format(url=loaded.url, name=name) for name in services)
    warnings = _about(agent, client, common.client())
    common.emit(
        {"client": client, "where": _WHERE[client], "configuration": text, "warnings": warnings},
        Group(Text(f"put this into {_WHERE[client]}:\n", style="bold"), Text(text)),
    )
    warn(warnings)


def executable() -> list[str]:
    """Return the command that runs this very `remit`, from whatever folder and with no PATH."""
    called = Path(sys.argv[0])
    if called.name == "remit" and called.is_file() and os.access(called, os.X_OK):
        return [str(called.absolute())]
    beside = Path(sys.executable).parent / "remit"
    if beside.is_file():
        return [str(beside.absolute())]
    return [sys.executable, "-m", "remit.cli.main"]


def _about(agent: str, client: Client, control: ControlClient) -> list[str]:
    """Return what keeps this agent from acting through its client, each with the next step."""
    try:
        found = control.get("agents", agent)
    except UnreachableError:
        return ["no authority answers, so nothing is known of the agent: start it with `remit up`"]
    except RefusedError as error:
        if error.error.get("code") != "not_found":
            return [str(error)]
        names = {each["name"] for each in control.get("agents")["items"]}
        step = f"`remit agent register {agent} --gateway-template TEMPLATE`"
        return [f"no agent `{agent}` is registered{meant(agent, names)}; register it: {step}"]
    if found["state"] == "retired":
        return [f"agent `{agent}` is retired for good: register one under another name"]
    warnings = []
    if found["state"] != "active":
        step = f"`remit agent resume {agent}`"
        warnings.append(f"agent `{agent}` is {found['state']}, and refused everything: {step}")
    if client != "python" and not found["gateway_templates"]:
        warnings.append(
            f"agent `{agent}` may begin no task by itself, so its client can call nothing unless "
            f"REMIT_TASK is set: `remit agent update {agent} --gateway-template TEMPLATE`"
        )
    return warnings + missing_templates(control, found)


def _text(client: Client, agent: str, names: list[str], config: str | None, url: str) -> str:
    if client == "python":
        each = "".join(_UPSTREAM.format(url=url, upstream=name) for name in names)
        return _PYTHON.format(agent=agent) + each
    servers = {name: _server(agent, name, config) for name in names}
    if client == "codex":
        return "\n".join(
            f"[mcp_servers.{name}]\n"
            f"command = {json.dumps(entry['command'], ensure_ascii=False)}\n"
            f"args = {json.dumps(entry['args'], ensure_ascii=False)}\n"
            for name, entry in servers.items()
        )
    if client == "vscode":
        servers = {name: {"type": "stdio", **entry} for name, entry in servers.items()}
        return json.dumps({"servers": servers}, indent=2)
    return json.dumps({"mcpServers": servers}, indent=2)


def _server(agent: str, upstream: str, config: str | None) -> dict[str, Any]:
    """Return one server: absolute, as a desktop client starts it from anywhere, with no PATH."""
    remit, *module = executable()
    at = ["--config", config] if config else []
    gateway = [remit, *module, "gateway", "stdio", *at, "--upstream", upstream]
    return {"command": remit, "args": [*module, "run", *at, "--agent", agent, "--", *gateway]}


_PYTHON = """\
# start it with: remit run --agent {agent} -- python your_agent.py
import os

import httpx2
import mcp
from mcp.client.streamable_http import streamable_http_client
from spiffe import WorkloadApiClient

from remit.proof.dpop import ProofKey


class Governed(httpx2.Auth):
    key = ProofKey.generate()  # in memory only; the task is this key's from its first use on

    def auth_flow(self, request):
        with WorkloadApiClient() as workload:  # no secret: the kernel vouches for this process
            svid = workload.fetch_jwt_svid(audience={{os.environ["REMIT_AUDIENCE"]}}).token
        request.headers["Authorization"] = f"DPoP {{svid}}"
        request.headers["DPoP"] = self.key.prove(request.method, str(request.url), svid)
        request.headers["Remit-Task"] = os.environ["REMIT_TASK"]
        yield request


http = httpx2.AsyncClient(auth=Governed())
"""
_UPSTREAM = """\

transport = streamable_http_client("{url}/mcp/{upstream}", http_client=http)
# async with mcp.Client(transport) as {upstream}: await {upstream}.call_tool(…)
"""
_SERVICE = """\

# await http.get("{url}/egress/{name}/…")
"""
