"""The quickstart's world: a configuration, two upstreams, two agents and what they are for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remit.app.examples import examples_folder
from remit.model.errors import ConfigError

PERSON = "user:robin@example.com"
REPOSITORIES = {"git": "code", "git_prod": "production"}
"""The repository behind each git upstream; each server is confined to its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickAgent:
    """One of the quickstart's agents: who it is, and the task it is given."""

    name: str
    template: str
    purpose: str
    prompt: str
    file: str

    @property
    def script(self) -> Path:
        """The agent's program."""
        return examples_folder() / "agents" / self.file

    def registration(self) -> dict[str, Any]:
        """Return what the registry is told."""
        return {
            "name": self.name,
            "owner": PERSON,
            "purpose": self.purpose,
            "environment": "dev",
            "autonomy": 2,
            "templates": [self.template],
        }

    def opening(self, folder: Path) -> dict[str, Any]:
        """Return the request that opens its task: the template, for these repositories alone."""
        template = templates_folder() / f"{self.template}.toml"
        capabilities = tomllib.loads(template.read_text(encoding="utf-8"))["capability"]
        for capability in capabilities:
            if "repo_path" in capability["args"]:
                upstream = capability["tool"].partition("/")[0]
                capability["args"]["repo_path"] = {"const": str(folder / REPOSITORIES[upstream])}
        return {
            "agent": self.name,
            "template": self.template,
            "purpose": self.purpose,
            "prompt": self.prompt,
            "on_behalf_of": PERSON,
            "capability": capabilities,
        }

    def environment(self, folder: Path) -> dict[str, str]:
        """Return what its process is told beside its identity."""
        return {
            "REMIT_REPOSITORY": str(folder / REPOSITORIES["git"]),
            "REMIT_PRODUCTION": str(folder / REPOSITORIES["git_prod"]),
        }


AGENTS = (
    QuickAgent(
        name="support-agent",
        template="support.draft",
        purpose="Draft replies to the open tickets of customer 88",
        prompt="Please draft answers to customer 88's open tickets. I will send them myself.",
        file="support_agent.py",
    ),
    QuickAgent(
        name="code-agent",
        template="code.branch",
        purpose="Correct the typo in the README on a branch",
        prompt="There is a typo in the README. Correct it on a branch; I will review and merge.",
        file="code_agent.py",
    ),
)


def templates_folder() -> Path:
    """Return the folder of the quickstart's mandate templates."""
    return examples_folder() / "quickstart" / "templates"


def prepare(folder: Path, port: int) -> Path:
    """Make the repositories and the configuration in ``folder``; return the configuration's path.

    Raises:
        ConfigError: git or an upstream of the quickstart is not installed.
    """
    examples = examples_folder()
    maker = [sys.executable, str(examples / "quickstart" / "repository.py"), str(folder)]
    try:
        subprocess.run(maker, check=True, capture_output=True, text=True)  # noqa: S603 - our own
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        raise ConfigError(f"the quickstart's repository cannot be made: {last}") from error
    git = {
        upstream: [sys.executable, "-m", "mcp_server_git", "--repository", str(folder / name)]
        for upstream, name in REPOSITORIES.items()
    }
    helpdesk = [
        *(sys.executable, str(examples / "helpdesk" / "server.py")),
        *("--database", str(folder / "helpdesk.sqlite3")),
    ]
    who = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    path = folder / "remit.toml"
    path.write_text(
        _CONFIG.format(
            port=port or free_port(),
            helpdesk=json.dumps(helpdesk),
            git=json.dumps(git["git"]),
            git_prod=json.dumps(git["git_prod"]),
            env="{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in who.items()) + " }",
            templates=json.dumps(str(templates_folder())),
        ),
        encoding="utf-8",
    )
    return path


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_CONFIG = """\
[authority]
state = "state"
trust_domain = "quickstart.local"
listen = "127.0.0.1:{port}"

[upstream.helpdesk]
command = {helpdesk}
environment = "dev"
env = {env}

[upstream.git]
command = {git}
environment = "dev"
env = {env}

[upstream.git_prod]
command = {git_prod}
environment = "prod"
env = {env}

[policy]
templates = {templates}
"""
