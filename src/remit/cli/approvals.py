"""`remit approvals`, `remit approve`, `remit deny`: a person's word on one exact call."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Group
from rich.text import Text

from remit.cli.common import DEFAULTS, Common
from remit.cli.drawing import arguments, facts, printable, put

_LINE = 120
_EMPTY = {"pending": "nothing waits for approval"}

app = App(name="approvals", help="See what waits for a person's yes.")


@app.command(name="list")
def list_approvals(
    *,
    state: Literal["pending", "approved", "denied", "used", "expired"] = "pending",
    every: Annotated[bool, Parameter(name=["--all", "--every"], negative="")] = False,
    limit: int = 50,
    after: str | None = None,
    common: Common = DEFAULTS,
) -> None:
    """List approvals: those that wait for a person, unless told otherwise.

    Parameters
    ----------
    state
        Only those in this state.
    every
        Those in any state.
    """
    found = common.client().get(
        "approvals", state=None if every else state, limit=limit, after=after
    )
    rows = [{**item, "call": _call(item)} for item in found["items"]]
    common.rows(
        found,
        {
            "approval": "id",
            **({"state": "state"} if every or state != "pending" else {}),
            "task": "task",
            "requester": "requester",
            "call": "call",
            "role": "role",
            "why": "sentence",
            "expires": "expires_at",
        },
        "no approval yet" if every else _EMPTY.get(state, f"no approval is {state}"),
        rows=rows,
    )


@app.command
def show(approval: str, *, common: Common = DEFAULTS) -> None:
    """Show exactly what would happen: the target and every argument."""
    _emit(common.client().get("approvals", approval), common)


def approve(approval: str, *, comment: str = "", common: Common = DEFAULTS) -> None:
    """Say yes to one exact call, once; the agent then repeats it and it is decided again."""
    _emit(common.client().post("approvals", approval, "approve", body={"comment": comment}), common)
    if not common.json:
        put("\napproved: the agent repeats its call now, and it is decided again")


def deny(approval: str, *, comment: str = "", common: Common = DEFAULTS) -> None:
    """Say no to one exact call."""
    _emit(common.client().post("approvals", approval, "deny", body={"comment": comment}), common)
    if not common.json:
        put("\ndenied: the agent is told when it repeats its call")


def _emit(found: dict[str, Any], common: Common) -> None:
    shown = {k: v for k, v in found.items() if k not in {"preview", "call_digest"}}
    call = _previewed(found)
    exactly = arguments(call) if call is not None else Text(printable(found["preview"]))
    common.emit(found, Group(facts(shown), Text("\nexactly this:", style="bold"), exactly))


def _call(item: dict[str, Any]) -> str:
    """Return what would be called, with its arguments, on one line that is not too long."""
    call = _previewed(item) or {}
    given = call.get("arguments")
    said = [f"{name}={json.dumps(value)}" for name, value in given.items()] if given else []
    line = f"{item['target']}({', '.join(said)})"
    return line if len(line) <= _LINE else f"{line[: _LINE - 1]}…"


def _previewed(item: dict[str, Any]) -> dict[str, Any] | None:
    try:
        call = json.loads(item["preview"])
    except (ValueError, RecursionError):
        return None
    return call if isinstance(call, dict) else None
