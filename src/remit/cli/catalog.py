"""`remit catalog`: the tools behind the gateway, pinned to accepted definitions."""

from __future__ import annotations

from cyclopts import App

from remit.cli.common import DEFAULTS, Common
from remit.model.errors import NotFoundError

app = App(name="catalog", help="See what upstreams offer, and accept what changed.")

_COLUMNS = {
    "target": "target",
    "state": "state",
    "environment": "environment",
    "side effects": "side_effects",
    "definition": "definition_digest",
}
_EMPTY = "nothing is catalogued yet: `remit catalog scan UPSTREAM`"


@app.command
def scan(upstream: str, *, common: Common = DEFAULTS) -> None:
    """Ask an upstream what it offers, and pin what is new."""
    common.rows(
        common.client().post("catalog", "scan", body={"upstream": upstream}), _COLUMNS, _EMPTY
    )


@app.command(name="list")
def list_tools(upstream: str | None = None, *, common: Common = DEFAULTS) -> None:
    """List what is catalogued."""
    common.rows(common.client().get("catalog", upstream=upstream), _COLUMNS, _EMPTY)


@app.command
def show(target: str, *, common: Common = DEFAULTS) -> None:
    """Show one catalogued target, `upstream/name`."""
    for tool in common.client().get("catalog")["items"]:
        if tool["target"] == target:
            common.emit(tool)
            return
    raise NotFoundError(f"`{target}` is not catalogued: `remit catalog list` shows what is")


@app.command
def accept(target: str, *, common: Common = DEFAULTS) -> None:
    """Accept the definition that the upstream shows now; until then it is withheld."""
    common.emit(common.client().post("catalog", "accept", body={"target": target}))
