"""How values look to people: tables and lines instead of JSON, plain where nobody looks at once.

Whatever an agent or an upstream may have written goes through ``printable``, so that no text drives
the terminal or rewrites what a person decides by. In a pipe there is no colour, no padding, no
drawn line, and no width unless COLUMNS sets one.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from remit.model.label import Confidentiality

_DIGEST_SHOWN = 19
_UNBOUNDED = 100_000
_GUIDES = re.compile(r"^[\u2500-\u257f ]+")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)\Z", re.ASCII)
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_BOUNDS = {
    "minimum": "≥",
    "maximum": "≤",
    "exclusiveMinimum": ">",
    "exclusiveMaximum": "<",
    "pattern": "like",
    "maxLength": "length ≤",
    "minLength": "length ≥",
}

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)

STATE_STYLE = {
    "open": "green",
    "active": "green",
    "accepted": "green",
    "approved": "green",
    "pending": "yellow",
    "changed": "yellow",
    "suspended": "yellow",
}


def put(what: Any) -> None:
    """Print anything that rich can draw on standard output."""
    if OUT.is_terminal:
        OUT.print(what)
        return
    console = _piped()
    with console.capture() as captured:
        console.print(what)
    for line in captured.get().splitlines():
        sys.stdout.write(_GUIDES.sub(lambda led: " " * len(led[0]), line).rstrip() + "\n")


def _piped() -> Console:
    bounded = os.environ.get("COLUMNS", "").isdigit()
    return Console(highlight=False, soft_wrap=True, width=None if bounded else _UNBOUNDED)


def help_console() -> Console:
    """Return where help is written: as wide as the terminal, and one line each in a pipe."""
    return Console() if sys.stdout.isatty() else _piped()


def facts(value: dict[str, Any]) -> Table:
    """Return a noun as two columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, entry in value.items():
        table.add_row(Text(printable(key.replace("_", " "))), cell(entry, key))
    return table


def table(items: list[dict[str, Any]], columns: dict[str, str]) -> Table | Group:
    """Return nouns as rows: ``columns`` maps a heading to a field.

    Where a terminal is too narrow for the rows, each noun is a block of lines instead.
    """
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(columns):
        # What a line is found by is never broken: it is there to be copied.
        drawn.add_column(heading, overflow="fold", no_wrap=place == 0)
    for item in items:
        drawn.add_row(*(_brief(item.get(name)) for name in columns.values()))
    unbounded = OUT.options.update(max_width=_UNBOUNDED)
    if OUT.is_terminal and Measurement.get(OUT, unbounded, drawn).maximum > OUT.width:
        return Group(*(_block(item, columns) for item in items))
    return drawn


def _block(item: dict[str, Any], columns: dict[str, str]) -> Group:
    (_, first), *others = columns.items()
    lines = Table(box=None, show_header=False, padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    for heading, name in others:
        lines.add_row(heading, _brief(item.get(name)))
    return Group(_brief(item.get(first)), lines)


def arguments(value: Any) -> Table:
    """Return exactly what a value holds, one line for each leaf, by its path.

    Texts are in ASCII: what looks like another letter, or turns the line, is shown as its escape.
    """
    drawn = Table(box=None, show_header=False, pad_edge=False)
    drawn.add_column(style="bold")
    drawn.add_column(overflow="fold")
    for path, leaf in _leaves(value, ""):
        drawn.add_row(Text(path), Text(json.dumps(leaf, ensure_ascii=True)))
    return drawn


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            name = key if _BARE.match(key) else f"[{json.dumps(key)}]"
            dot = "." if path and name is key else ""
            yield from _leaves(entry, f"{path}{dot}{name}")
    elif isinstance(value, list) and value:
        for place, entry in enumerate(value):
            yield from _leaves(entry, f"{path}[{place}]")
    else:
        yield path, value


def printable(value: Any) -> Any:
    """Return a value whose texts are safe to show: what a terminal would obey is written out.

    Escape sequences, line breaks and marks that turn the direction of text may come from an agent
    or an upstream, and would otherwise rewrite what a person decides by.
    """
    if isinstance(value, str):
        return "".join(
            each if each.isprintable() else each.encode("unicode_escape").decode() for each in value
        )
    if isinstance(value, dict):
        return {printable(key): printable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [printable(entry) for entry in value]
    return value


def cell(value: Any, key: str = "") -> Text:
    """Return a value as the cell of a table, a line for each item of a list of things."""
    if isinstance(value, str):
        return Text(printable(value), style=STATE_STYLE.get(value, ""))
    shown = _NOUNS[key](value) if key in _NOUNS else None
    lines = shown if shown is not None else _lines(value)
    if not lines:
        return Text("-", style="dim")
    return Text("\n".join(printable(line) for line in lines))


def inline(value: Any) -> str:
    """Return a value in words, on one line; null and empty parts of an object are left out."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        said = {key: entry for key, entry in value.items() if entry not in (None, [], {}, "")}
        return ", ".join(f"{key.replace('_', ' ')} {inline(entry)}" for key, entry in said.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"({inline(each)})" if _nested(each) else inline(each) for each in value)
    return "-" if value is None else str(value)


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list | tuple)


def _lines(value: Any) -> list[str]:
    if value is None or value in ([], (), {}):
        return []
    if isinstance(value, list | tuple) and any(_nested(each) for each in value):
        return [inline(each) for each in value]
    return [inline(value)]


def _brief(value: Any) -> Text:
    """Return a cell of a table: a digest by its beginning, and a time by its seconds."""
    if isinstance(value, str) and value.startswith("sha256:"):
        return Text(f"{printable(value[:_DIGEST_SHOWN])}…")
    if isinstance(value, str) and (time := _TIME.match(value)):
        return Text(f"{time[1]} {time[2]} UTC")
    return cell(value)


def _capabilities(value: Any) -> list[str] | None:
    if not isinstance(value, list) or not all(
        isinstance(each, dict) and "target" in each for each in value
    ):
        return None
    lines = []
    for each in value:
        args = each.get("args")
        said = [f"{name} {schema(wanted)}" for name, wanted in args.items()] if args else []
        if each.get("other_args"):
            said.append("any other argument")
        if each.get("approval"):
            said.append(f"approval by {each['approval']}")
        verb = "" if each.get("action", "call_tool") == "call_tool" else f" ({each['action']})"
        lines.append(f"{each['target']}{verb}" + (f": {', '.join(said)}" if said else ""))
    return lines


def schema(wanted: Any) -> str:
    """Return a JSON Schema in short words; what has none is written as it is."""
    if not isinstance(wanted, dict):
        return "any" if wanted is True else json.dumps(wanted, ensure_ascii=False)
    if set(wanted) == {"const"}:
        return f"= {json.dumps(wanted['const'], ensure_ascii=False)}"
    if set(wanted) == {"enum"} and isinstance(wanted["enum"], list):
        listed = ", ".join(json.dumps(each, ensure_ascii=False) for each in wanted["enum"])
        return f"one of ({listed})"
    if wanted and all(
        key in _BOUNDS or (key == "type" and isinstance(entry, str))
        for key, entry in wanted.items()
    ):
        bounds = [
            f"{_BOUNDS[key]} {json.dumps(entry, ensure_ascii=False)}"
            for key, entry in wanted.items()
            if key in _BOUNDS
        ]
        return " ".join([wanted.get("type", "any"), *bounds])
    return json.dumps(wanted, ensure_ascii=False) if wanted else "any"


def _budget(value: Any) -> list[str] | None:
    if not isinstance(value, dict):
        return None
    counts = [(name, value.get(name)) for name in ("calls", "seconds")]
    said = [f"{name} {round(count, 3)}" for name, count in counts if count is not None]
    amounts = value.get("amounts") or []
    if isinstance(amounts, dict):
        said += [f"{name} {spent}" for name, spent in amounts.items()]
    else:
        said += [f"{a['name']} {a['limit']} ({a['argument']} of {a['target']})" for a in amounts]
    return [", ".join(said)] if said else []


def _label(value: Any) -> list[str] | None:
    if not isinstance(value, dict):
        return None
    words: dict[object, str] = {each.value: each.word for each in Confidentiality}
    level = value.get("confidentiality")
    return [inline({**value, "confidentiality": words.get(level, level)})]


_NOUNS = {"label": _label, "capabilities": _capabilities, "budget": _budget, "spent": _budget}
