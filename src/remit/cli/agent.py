"""`remit agent`: the registry of agents."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from remit.cli.common import DEFAULTS, Common
from remit.cli.hints import missing_templates, warn

app = App(name="agent", help="Register agents, and say who answers for them.")

Many = Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative="")]


@app.command
def register(
    name: str,
    *,
    owner: str | None = None,
    purpose: str = "",
    environment: Literal["dev", "staging", "prod"] = "dev",
    autonomy: int = 1,
    template: Many = (),
    gateway_template: Many = (),
    max_depth: int = 4,
    common: Common = DEFAULTS,
) -> None:
    """Register an agent; its identity is `spiffe://<trust domain>/agent/NAME`.

    Parameters
    ----------
    name
        What to call it: a-z, 0-9 and -.
    owner
        The person who answers for it; you, where left out.
    purpose
        What it is for.
    environment
        Where it lives.
    autonomy
        From 0 (suggests only) to 4 (acts unattended).
    template
        A mandate template that tasks may be opened under for it; repeat for more.
    gateway_template
        A template it may open tasks under itself, with the gateway's own tools; repeat for more.
    max_depth
        How many delegations below a root task it may act; 0 is for root tasks alone.
    """
    client = common.client()
    registered = client.post(
        "agents",
        body={
            "name": name,
            "owner": owner,
            "purpose": purpose,
            "environment": environment,
            "autonomy": autonomy,
            "templates": template,
            "gateway_templates": gateway_template,
            "max_depth": max_depth,
        },
    )
    common.emit(registered)
    warn(missing_templates(client, registered))


@app.command
def update(
    name: str,
    *,
    owner: str | None = None,
    purpose: str | None = None,
    autonomy: int | None = None,
    template: Many | None = None,
    gateway_template: Many | None = None,
    max_depth: int | None = None,
    common: Common = DEFAULTS,
) -> None:
    """Change what an agent is for; what is left out stays as it is.

    Parameters
    ----------
    name
        The registered agent.
    owner
        The person who answers for it from now on.
    purpose
        What it is for.
    autonomy
        From 0 (suggests only) to 4 (acts unattended).
    template
        The templates it may act under, in place of those it has; repeat for more.
    gateway_template
        The templates it may open tasks under itself, in place of those it has; repeat for more.
    max_depth
        How many delegations below a root task it may act from now on.
    """
    given = {
        "owner": owner,
        "purpose": purpose,
        "autonomy": autonomy,
        "templates": template,
        "gateway_templates": gateway_template,
        "max_depth": max_depth,
    }
    body = {key: value for key, value in given.items() if value is not None}
    client = common.client()
    changed = client.patch("agents", name, body=body)
    common.emit(changed)
    warn(missing_templates(client, changed))


@app.command(name="list")
def list_agents(*, common: Common = DEFAULTS) -> None:
    """List every registered agent."""
    common.rows(
        common.client().get("agents"),
        {
            "name": "name",
            "state": "state",
            "owner": "owner",
            "environment": "environment",
            "autonomy": "autonomy",
            "templates": "templates",
        },
        "no agent is registered yet: `remit agent register NAME`",
    )


@app.command
def show(name: str, *, common: Common = DEFAULTS) -> None:
    """Show one agent."""
    common.emit(common.client().get("agents", name))


@app.command
def suspend(name: str, *, common: Common = DEFAULTS) -> None:
    """Refuse everything an agent asks, from now on, until it is resumed."""
    common.emit(common.client().post("agents", name, "suspend"))


@app.command
def resume(name: str, *, common: Common = DEFAULTS) -> None:
    """Let a suspended agent act again."""
    common.emit(common.client().post("agents", name, "resume"))


@app.command
def retire(name: str, *, common: Common = DEFAULTS) -> None:
    """Refuse an agent for good; its name is not used again."""
    common.emit(common.client().post("agents", name, "retire"))
