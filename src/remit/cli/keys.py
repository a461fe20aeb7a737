"""`remit keys`: the trust domain's keys."""

from __future__ import annotations

from cyclopts import App

from remit.cli.common import DEFAULTS, Common

app = App(name="keys", help="Rotate the trust domain's keys.")


@app.command
def rotate(*, compromised: bool = False, common: Common = DEFAULTS) -> None:
    """Take the next keys into use; what the old ones signed stays good until it expires.

    Parameters
    ----------
    compromised
        The old keys were stolen: everything they signed is refused from now on, running tasks
        included, and every agent fetches a new identity.
    """
    common.emit(common.client().post("keys", "rotate", body={"compromised": compromised}))
