"""`remit lease`: the credentials that may be alive now."""

from __future__ import annotations

from typing import Any

from cyclopts import App
from rich.text import Text

from remit.cli.common import DEFAULTS, Common
from remit.cli.drawing import facts, printable

app = App(name="lease", help="See which credentials may be alive, and take one back.")


@app.command(name="list")
def list_leases(*, common: Common = DEFAULTS) -> None:
    """List every lease that is not settled, and mark those whose revocation fails."""
    found = common.client().get("leases")
    common.rows(
        found,
        {
            "lease": "id",
            "state": "stands",
            "task": "task",
            "target": "target",
            "broker": "broker",
            "uses": "uses",
            "expires": "expires_at",
        },
        "no lease is open: no credential of Remit's is alive",
        rows=[each | {"stands": _stands(each)} for each in found["items"]],
    )


@app.command
def show(lease: str, *, common: Common = DEFAULTS) -> None:
    """Show one lease: where it stands, and how its credential ends.

    Parameters
    ----------
    lease
        The lease's id, of `remit lease list` or of a record.
    """
    found = common.client().get("leases", lease)
    common.emit(found, facts(_told(found)))


@app.command
def revoke(lease: str, *, common: Common = DEFAULTS) -> None:
    """Take one credential back now, whatever its task is doing.

    Parameters
    ----------
    lease
        The lease's id.
    """
    found = common.client().post("leases", lease, "revoke")
    failed = found["revoke_failed"]
    more = "" if failed is None or found["state"] == "settled" else f"; failed {_failed(failed)}"
    common.emit(found, Text(printable(f"{lease}: {_ending(found)}{more}")))


def _told(found: dict[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in found.items() if value is not None}
    if str(found["detail"]).startswith("dec_"):
        told["decision"] = told.pop("detail")  # until something has to be said of its end
    if (failed := told.pop("revoke_failed", None)) is not None:
        told["revocation failed"] = _failed(failed)
    return {**told, "ending": _ending(found)}


def _stands(found: dict[str, Any]) -> str:
    """Say a lease's state, and whether the target fails to take its credential back."""
    failed = found["revoke_failed"]
    if failed is None:
        return str(found["state"])
    return f"{found['state']}, revocation failed {_times(failed)}"


def _failed(failed: dict[str, Any]) -> str:
    """Say when a revocation failed last, why, and what comes next."""
    said = f"{_times(failed)}, last at {failed['at']}: {failed['reason']}"
    again = failed["again_at"]
    return f"{said}; asked again at {again}" if again is not None else said


def _times(failed: dict[str, Any]) -> str:
    return "once" if failed["attempts"] == 1 else f"{failed['attempts']} times"


def _ending(found: dict[str, Any]) -> str:
    """Say in words how a credential ends, or ended."""
    if (kind := f"{found['state']} {found['revocation']}") in _ENDINGS:
        return _ENDINGS[kind].format(**found)
    said = _ENDINGS.get(found["state"], _ENDINGS["issued"]).format(**found)
    return f"{said}: {_CONFIRMED[found['confirmed']]}" if found["state"] == "settled" else said


_CONFIRMED = {
    True: "the target, asked afterwards, refuses it",
    False: "the target cannot be asked whether it still works",
    None: "the target was not asked",
}
_ENDINGS = {
    "issued": "taken back when its call or task ends, and at its expiry at the latest",
    "settling": "being taken back: remit asks the target again until it is gone",
    "settling at_expiry": "this target can only expire: it runs out at {expires_at}",
    "settled": "over",
    "failed": "over: nothing was ever minted, as far as the target says",
    "irrevocable": "the target does not take it back ({detail}): take it back by hand",
    "unknown": "whether it exists cannot be found out: it would run out at {expires_at}",
}
