"""`remit task`: units of work under a mandate."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Group
from rich.text import Text

from remit.cli.client import RefusedError
from remit.cli.common import DEFAULTS, Common
from remit.cli.drawing import facts
from remit.cli.hints import instead_of
from remit.model.errors import ConfigError

app = App(name="task", help="Open, delegate, look at and close tasks.")


@app.command(name="open")
def open_task(
    template: str,
    *,
    agent: str,
    purpose: str | None = None,
    prompt: str | None = None,
    on_behalf_of: str | None = None,
    expires_seconds: int | None = None,
    mandate: Annotated[Path | None, Parameter(name=["--mandate", "-f"])] = None,
    token_only: bool = False,
    common: Common = DEFAULTS,
) -> None:
    """Open a task for an agent and print its task token, which only that agent can use.

    Parameters
    ----------
    template
        The administrator's template that bounds it.
    agent
        The agent it is for.
    purpose
        What it is to achieve, in one line.
    prompt
        What the agent was told; `-` reads it from standard input. It is kept encrypted.
    on_behalf_of
        For whom; the agent's owner, where left out.
    expires_seconds
        How long it may run; at most what the template allows.
    mandate
        A TOML file that narrows the template further (docs/mandates.md).
    token_only
        Print the token and nothing else.
    """
    given = {
        "purpose": purpose,
        "prompt": sys.stdin.read() if prompt == "-" else prompt,
        "on_behalf_of": on_behalf_of,
        "expires_seconds": expires_seconds,
    }
    opened = _asked(["tasks"], (template, agent, mandate), given, common)
    _show_token(opened, token_only=token_only, common=common)


@app.command
def delegate(
    task: str,
    template: str,
    *,
    agent: str,
    purpose: str | None = None,
    prompt: str | None = None,
    expires_seconds: int | None = None,
    mandate: Annotated[Path | None, Parameter(name=["--mandate", "-f"])] = None,
    token_only: bool = False,
    common: Common = DEFAULTS,
) -> None:
    """Give another agent a part of an open task, and print its task token.

    It acts within both mandates, spends both budgets, and ends with the task at the latest. Agents
    delegate by themselves with `POST /tasks/TASK/delegate` and their task token.

    Parameters
    ----------
    task
        The open task.
    template
        The administrator's template that bounds the part.
    agent
        The agent it is for; none that is in the chain already.
    purpose
        What it is to achieve, in one line.
    prompt
        What the agent is told; `-` reads it from standard input. It is kept encrypted.
    expires_seconds
        How long it may run; at most as long as the task.
    mandate
        A TOML file that narrows template and task further (docs/mandates.md).
    token_only
        Print the token and nothing else.
    """
    given = {
        "purpose": purpose,
        "prompt": sys.stdin.read() if prompt == "-" else prompt,
        "expires_seconds": expires_seconds,
    }
    opened = _asked(["tasks", task, "delegate"], (template, agent, mandate), given, common)
    _show_token(opened, token_only=token_only, common=common)


def _asked(
    route: list[str],
    bounds: tuple[str, str, Path | None],
    given: dict[str, Any],
    common: Common,
) -> dict[str, Any]:
    """Ask for a task; where the template is what is wrong, say which would do."""
    template, agent, mandate = bounds
    body: dict[str, Any] = _read(mandate) if mandate else {}
    body |= {"template": template, "agent": agent}
    body |= {key: value for key, value in given.items() if value is not None}
    client = common.client()
    try:
        opened: dict[str, Any] = client.post(*route, body=body)
    except RefusedError as error:
        better = instead_of(template, agent, client)
        if better is None:
            raise
        raise RefusedError(error.answered, {**error.error, "message": better}) from error
    return opened


def _show_token(opened: dict[str, Any], *, token_only: bool, common: Common) -> None:
    if token_only and common.json:
        common.emit({"task_token": opened["task_token"]})
        return
    if token_only:
        sys.stdout.write(opened["task_token"] + "\n")
        return
    token = opened["task_token"]
    shown = {key: value for key, value in opened.items() if key != "task_token"}
    hint = Text(f"\nsend it as the header Remit-Task, or as REMIT_TASK to `remit run`:\n{token}")
    common.emit(opened, Group(facts(shown), hint))


@app.command(name="list")
def list_tasks(
    *,
    state: Literal["open", "completed", "cancelled", "expired"] | None = None,
    agent: str | None = None,
    limit: int = 50,
    after: str | None = None,
    common: Common = DEFAULTS,
) -> None:
    """List tasks, newest first."""
    common.rows(
        common.client().get("tasks", state=state, agent=agent, limit=limit, after=after),
        {
            "task": "id",
            "state": "state",
            "agent": "agent",
            "template": "template",
            "purpose": "purpose",
            "part of": "parent",
            "on behalf of": "on_behalf_of",
            "expires": "expires_at",
        },
        "no task yet: `remit task open TEMPLATE --agent NAME`",
    )


@app.command
def show(task: str, *, common: Common = DEFAULTS) -> None:
    """Show one task: its mandate, its budget, what it touched, and what was delegated of it."""
    common.emit(common.client().get("tasks", task))


@app.command
def complete(task: str, *, common: Common = DEFAULTS) -> None:
    """Complete a task: nothing acts under it any more, its credentials are revoked.

    What was delegated of it and is open is cancelled with it.
    """
    common.emit(common.client().post("tasks", task, "complete"))


@app.command
def cancel(task: str, *, common: Common = DEFAULTS) -> None:
    """Cancel a task: as complete, but it did not come to its end."""
    common.emit(common.client().post("tasks", task, "cancel"))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"`{path}` cannot be read as TOML: {error}") from error
