"""What every command shares: where the authority is, how to print, and the exit codes."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from remit.app.config import DEFAULT_FILE, Loaded, load
from remit.cli.client import ControlClient


class Exit(IntEnum):
    """What the exit status of `remit` means."""

    DONE = 0
    REFUSED = 1
    CONFIG = 2
    UNREACHABLE = 3
    PROOF = 4
    INTERRUPTED = 130


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options that every command takes.

    Parameters
    ----------
    config
        The authority's configuration; `remit.toml` here where there is one, else the defaults.
    json
        Print JSON instead of text.
    """

    config: Annotated[Path | None, Parameter(env_var="REMIT_CONFIG")] = None
    json: bool = False

    def loaded(self) -> Loaded:
        """Return the configuration in force."""
        path = self.config
        if path is None and Path(DEFAULT_FILE).is_file():
            path = Path(DEFAULT_FILE)
        return load(path)

    def client(self) -> ControlClient:
        """Return a client of the authority's control socket."""
        return ControlClient(self.loaded().control_socket)

    def emit(self, value: Any, text: Any | None = None) -> None:
        """Print ``value`` as JSON, or ``text`` (anything rich can draw) for people."""
        if self.json:
            sys.stdout.write(jsonlib.dumps(value, indent=None, ensure_ascii=False) + "\n")
        else:
            OUT.print(text if text is not None else facts(value))

    def rows(self, answer: dict[str, Any], columns: dict[str, str], empty: str) -> None:
        """Print one page of items as a table: ``columns`` maps a heading to a field."""
        if self.json:
            self.emit(answer)
            return
        if not answer["items"]:
            OUT.print(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for place, heading in enumerate(columns):
            # What a line is found by is never broken: it is there to be copied.
            table.add_column(heading, overflow="fold", no_wrap=place == 0)
        for item in answer["items"]:
            table.add_row(*(_brief(item.get(name)) for name in columns.values()))
        OUT.print(table)
        if answer.get("next"):
            OUT.print(Text(f"more: --after {printable(answer['next'])}", style="dim"))


_DIGEST_SHOWN = 19

DEFAULTS = Common()
_PIPED_COLUMNS = 200
OUT = Console(
    highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPED_COLUMNS
)
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


def facts(value: dict[str, Any]) -> Table:
    """Return a noun as two columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, entry in value.items():
        table.add_row(Text(printable(key.replace("_", " "))), _cell(entry))
    return table


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


def _brief(value: Any) -> Text:
    """Return a cell of a table: as everywhere else, but a digest by its beginning."""
    if isinstance(value, str) and value.startswith("sha256:"):
        return Text(f"{printable(value[:_DIGEST_SHOWN])}…")
    return _cell(value)


def _cell(value: Any) -> Text:
    if value is None or value in ([], ()):
        return Text("-", style="dim")
    if isinstance(value, str):
        return Text(printable(value), style=STATE_STYLE.get(value, ""))
    if isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
        return Text(", ".join(printable(value)))
    if isinstance(value, bool | int | float):
        return Text(str(value))
    return Text(printable(jsonlib.dumps(value, ensure_ascii=False)))
