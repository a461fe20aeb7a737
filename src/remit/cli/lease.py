"""`remit lease`: the credentials that may be alive now."""

from __future__ import annotations

from cyclopts import App

from remit.cli.common import DEFAULTS, Common

app = App(name="lease", help="See which credentials may be alive.")


@app.command(name="list")
def list_leases(*, common: Common = DEFAULTS) -> None:
    """List every lease that is not settled."""
    common.rows(
        common.client().get("leases"),
        {
            "lease": "id",
            "state": "state",
            "task": "task",
            "target": "target",
            "broker": "broker",
            "expires": "expires_at",
        },
        "no lease is open: no credential of Remit's is alive",
    )
