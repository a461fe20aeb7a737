"""`remit keys`: the trust domain's keys, and the log's where a token keeps it."""

from __future__ import annotations

from typing import Literal

from cyclopts import App

from remit.cli.common import DEFAULTS, Common

app = App(name="keys", help="Rotate the trust domain's keys; make the log's in a token.")


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


@app.command
def make(key: Literal["log"], /, *, common: Common = DEFAULTS) -> None:
    """Make a key in the token that `[keys]` names, and print its public half.

    It is made so that it cannot be taken out. One that is there already is left alone.

    Parameters
    ----------
    key
        Which one: the log's.
    """
    from remit.app.own_keys import make_log_key  # noqa: PLC0415 - slow, and only here

    del key
    common.emit({"vkey": make_log_key(common.loaded())})
