"""`remit approvals`, `remit approve`, `remit deny`: a person's word on one exact call."""

from __future__ import annotations

import json
from typing import Any, Literal

from cyclopts import App
from rich.console import Group
from rich.text import Text

from remit.cli.common import DEFAULTS, Common, facts

app = App(name="approvals", help="See what waits for a person's yes.")


@app.command(name="list")
def list_approvals(
    *,
    state: Literal["pending", "approved", "denied", "used", "expired"] | None = "pending",
    every: bool = False,
    limit: int = 50,
    after: str | None = None,
    common: Common = DEFAULTS,
) -> None:
    """List approvals; those that wait, unless told otherwise.

    Parameters
    ----------
    state
        Only those in this state.
    every
        Those in any state.
    """
    common.rows(
        common.client().get("approvals", state=None if every else state, limit=limit, after=after),
        {
            "approval": "id",
            "state": "state",
            "role": "role",
            "requester": "requester",
            "target": "target",
            "why": "sentence",
            "expires": "expires_at",
        },
        "nothing waits for approval",
    )


@app.command
def show(approval: str, *, common: Common = DEFAULTS) -> None:
    """Show exactly what would happen: the target and every argument."""
    _emit(common.client().get("approvals", approval), common)


def approve(approval: str, *, comment: str = "", common: Common = DEFAULTS) -> None:
    """Say yes to one exact call, once; the agent then repeats it and it is decided again."""
    _emit(common.client().post("approvals", approval, "approve", body={"comment": comment}), common)


def deny(approval: str, *, comment: str = "", common: Common = DEFAULTS) -> None:
    """Say no to one exact call."""
    _emit(common.client().post("approvals", approval, "deny", body={"comment": comment}), common)


def _emit(found: dict[str, Any], common: Common) -> None:
    shown = {k: v for k, v in found.items() if k not in {"preview", "call_digest"}}
    try:
        preview = json.dumps(json.loads(found["preview"]), indent=2, ensure_ascii=True)
    except ValueError:
        preview = repr(found["preview"])
    common.emit(found, Group(facts(shown), Text("\nexactly this:"), Text(preview)))
