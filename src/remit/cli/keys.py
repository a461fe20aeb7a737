"""`remit keys`: the trust domain's keys, and the log's where it is kept elsewhere."""

from __future__ import annotations

from cyclopts import App

from remit.cli.common import DEFAULTS, Common

app = App(name="keys", help="Rotate the trust domain's keys; make keys in a token or a KMS.")


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
def make(key: str, /, *, common: Common = DEFAULTS) -> None:
    """Make a key in the token or the KMS that the configuration names, and print its public half.

    It is made so that it cannot be taken out. One that is there already is left alone.

    Parameters
    ----------
    key
        Which one: `log`, or `broker.NAME` for the authority of a broker with a `ca_key`.
    """
    from remit.app.own_keys import make_key  # noqa: PLC0415 - slow, and only here

    common.emit({"public": make_key(common.loaded(), key)})
