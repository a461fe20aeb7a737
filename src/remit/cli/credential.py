"""`remit credential`: what no agent may ever hold, and the proof that nothing stands."""

from __future__ import annotations

from cyclopts import App
from rich.console import Group, RenderableType
from rich.text import Text

from remit.cli.common import DEFAULTS, Common, Exit
from remit.cli.drawing import table

app = App(name="credential", help="Check that no credential lives without a live task.")


@app.command(name="verify-none")
def verify_none(*, common: Common = DEFAULTS) -> int:
    """Ask every target what is alive; name what lives without a live task.

    Exits with 0 only where every target answered and nothing was found, else with 1.
    """
    report = common.client().get("leases", "standing")
    asked = [
        {
            **each,
            "said": each["trouble"] or ("listed all" if each["complete"] else "asked one by one"),
        }
        for each in report["asked"]
    ]
    parts: list[RenderableType] = []
    if asked:
        columns = {"broker": "broker", "revocation": "revocation", "alive": "alive", "said": "said"}
        parts.append(table(asked, columns))
    if report["items"]:
        columns = {
            "handle": "handle",
            "broker": "broker",
            "lease": "lease",
            "task": "task",
            "why": "why",
            "until": "until",
        }
        parts.append(table(report["items"], columns))
    parts.append(Text(_sentence(report["none_stands"], asked, report["items"])))
    common.emit(report, Group(*parts))
    return Exit.DONE if report["none_stands"] else Exit.REFUSED


def _sentence(none_stands: object, asked: list[dict[str, object]], found: list[object]) -> str:
    if not asked and not found:
        return "no broker is configured: remit has minted nothing that could stand"
    if none_stands:
        return "no credential lives without a live task: every target was asked"
    if found:
        return f"{len(found)} to look at: `remit lease show LEASE`, `remit lease revoke LEASE`"
    return "a target did not answer: nothing is shown until it does"
