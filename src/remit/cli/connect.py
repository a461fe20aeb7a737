"""`remit connect`: ready configuration for the common MCP clients."""

from __future__ import annotations

import json
from typing import Any, Literal

from rich.console import Group
from rich.text import Text

from remit.cli.common import DEFAULTS, Common
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
    if not names or any(name not in loaded.config.upstreams for name in names):
        raise ConfigError(
            f"no upstream `{upstream}` is configured"
            if upstream
            else "no upstream is configured: add an [upstream.NAME] to remit.toml first"
        )
    config = str(loaded.source.resolve()) if loaded.source else None
    text = _text(client, agent, names, config, loaded.url)
    common.emit(
        {"client": client, "where": _WHERE[client], "configuration": text},
        Group(Text(f"put this into {_WHERE[client]}:\n", style="bold"), Text(text)),
    )


def _text(client: Client, agent: str, names: list[str], config: str | None, url: str) -> str:
    if client == "python":
        return _PYTHON.format(url=url, upstream=names[0])
    servers: dict[str, dict[str, Any]] = {
        name: {"command": "remit", "args": _arguments(agent, name, config)} for name in names
    }
    if client == "codex":
        return "\n".join(
            f'[mcp_servers.{name}]\ncommand = "remit"\nargs = {json.dumps(entry["args"], ensure_ascii=False)}\n'
            for name, entry in servers.items()
        )
    if client == "vscode":
        servers = {name: {"type": "stdio", **entry} for name, entry in servers.items()}
        return json.dumps({"servers": servers}, indent=2)
    return json.dumps({"mcpServers": servers}, indent=2)


def _arguments(agent: str, upstream: str, config: str | None) -> list[str]:
    at = ["--config", config] if config else []
    return ["run", *at, "--agent", agent, "--", "remit", "gateway", "stdio", "--upstream", upstream]


_PYTHON = """\
# start it with: remit run --agent NAME -- python your_agent.py
import os
from mcp.client.streamable_http import streamable_http_client
from spiffe import WorkloadApiClient

with WorkloadApiClient() as workload:  # no secret: the kernel vouches for this process
    svid = workload.fetch_jwt_svid(audience={{os.environ["REMIT_AUDIENCE"]}})
headers = {{"Authorization": f"Bearer {{svid.token}}", "Remit-Task": os.environ["REMIT_TASK"]}}
endpoint = "{url}/mcp/{upstream}"  # hand endpoint and headers to your MCP client
"""
