"""`remit policy`: check a bundle, test it, and explain what it decided."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App
from rich.text import Text

from remit.app.policy_tools import check_bundle, run_cases
from remit.cli.common import DEFAULTS, Common, Exit
from remit.cli.drawing import inline, printable

app = App(name="policy", help="Check, test and explain policy.")


@app.command
def check(bundle: Path | None = None, *, common: Common = DEFAULTS) -> int:
    """Check a bundle against the schema: what fails here never becomes active.

    Parameters
    ----------
    bundle
        The bundle's folder; the configured one where left out.
    """
    report = check_bundle(bundle, common.loaded())
    lines = [*report["findings"], f"{report['policies']} policies, {report['templates']} templates"]
    lines.append(f"bundle {report['digest']}" if report["ok"] else "this bundle stays inactive")
    common.emit(report, Text("\n".join(lines)))
    return Exit.DONE if report["ok"] else Exit.CONFIG


@app.command(name="test")
def run_tests(bundle: Path | None = None, *, common: Common = DEFAULTS) -> int:
    """Run a bundle's described cases, and say which policies no case exercises.

    Parameters
    ----------
    bundle
        The bundle's folder; the configured one where left out.
    """
    report = run_cases(bundle, common.loaded())
    lines = [
        f"FAIL {f['file']}: {f['case']}\n     wanted {f['wanted']}\n     got    {f['got']}"
        for f in report["failures"]
    ]
    lines += [f"{report['passed']} cases pass, {len(report['failures'])} fail", report["coverage"]]
    common.emit(report, Text("\n".join(lines)))
    return Exit.DONE if report["ok"] else Exit.REFUSED


@app.command
def explain(decision: str, *, common: Common = DEFAULTS) -> None:
    """Say why a call was decided as it was: the policies, their text, the facts they read."""
    found = common.client().get("decisions", decision)
    text = Text()
    sources = [policy["text"] for policy in found["policies"]]
    shown = printable(found)
    text.append(f"{shown['effect']}", style="bold")
    text.append(f"  {shown['target']}\n{shown['at']}  bundle {shown['bundle']}\n")
    for policy, source in zip(shown["policies"], sources, strict=True):
        text.append(f"\n{policy['policy']}", style="bold cyan")
        text.append(f": {policy['sentence']}\n")
        if policy["remedy"]:
            text.append(f"  what would allow it: {policy['remedy']}\n")
        if policy["controls"]:
            text.append(f"  controls: {', '.join(policy['controls'])}\n")
        for fact, value in policy["facts"].items():
            text.append(f"  {fact} = {inline(value)}\n", style="dim")
        if source:
            lines = [printable(line.expandtabs()) for line in source.strip().splitlines()]
            text.append("\n" + "\n".join(lines) + "\n", style="green")
    for difference in shown["differences"]:
        text.append(f"\nmade again, it differs: {difference}\n", style="yellow")
    common.emit(found, text)
