"""What to do next, beside what was printed: warnings on standard error, and names meant by a slip.

Nothing here fails a command: where the authority cannot be asked, nothing is said of what it knows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

from rich.text import Text

from remit.cli.client import ControlClient
from remit.cli.drawing import ERR, printable
from remit.model.errors import RemitError

_SHOWN = 20


def warn(sentences: Sequence[str]) -> None:
    """Say on standard error what will not work as it stands."""
    for sentence in sentences:
        ERR.print(Text.assemble(("warning: ", "bold yellow"), printable(sentence)))


def meant(name: str, known: Collection[str]) -> str:
    """Return `: did you mean …?`, else what there is, else nothing."""
    close = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    if close:
        return f": did you mean `{close[0]}`?"
    listed = ", ".join(f"`{each}`" for each in sorted(known)[:_SHOWN])
    return f": there is {listed}{', …' if len(known) > _SHOWN else ''}" if listed else ""


def templates_of(client: ControlClient) -> set[str] | None:
    """Return the names of the templates in force, or None where that cannot be learnt."""
    try:
        return {template["name"] for template in client.get("templates")["items"]}
    except (RemitError, KeyError, TypeError):
        return None


def missing_templates(client: ControlClient, agent: dict[str, Any]) -> list[str]:
    """Return a warning for each template of an agent that does not exist."""
    named = dict.fromkeys([*agent["templates"], *agent["gateway_templates"]])
    if not named:
        step = f"`remit agent update {agent['name']} --template NAME`"
        return [f"it may act under no template, so no task can be opened for it: {step}"]
    known = templates_of(client)
    if known is None:
        return []
    where = "write it into the folder of `[policy] templates`; it works from then on"
    return [
        f"there is no template `{each}` in force{meant(each, known)}; {where}"
        for each in named
        if each not in known
    ]


def instead_of(template: str, agent: str, client: ControlClient) -> str | None:
    """Return why a task could not be opened under ``template``, and under which it could.

    None where the template is not what was wrong.
    """
    known = templates_of(client)
    try:
        found = client.get("agents", agent)
    except RemitError:
        return None
    if known is None:
        return None
    held = {*found["templates"], *found["gateway_templates"]}
    usable = held & known
    if template in usable:
        return None
    may = (
        f"agent `{agent}` may act under {', '.join(f'`{each}`' for each in sorted(usable))}"
        if usable
        else f"agent `{agent}` may act under none that exists"
    )
    if template not in known:
        return f"there is no template `{template}` in force{meant(template, known)}; {may}"
    every = " ".join(f"--template {each}" for each in sorted({*found["templates"], template}))
    return (
        f"agent `{agent}` may not act under template `{template}`; {may}; "
        f"to let it: `remit agent update {agent} {every}`"
    )
