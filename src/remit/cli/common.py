"""What every command shares: where the authority is, how to print, and the exit codes."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from remit.app.config import DEFAULT_FILE, Loaded, load
from remit.cli.client import ControlClient
from remit.cli.drawing import facts, printable, put, table


class Exit(IntEnum):
    """What the exit status of `remit` means."""

    DONE = 0
    REFUSED = 1
    CONFIG = 2
    UNREACHABLE = 3
    PROOF = 4
    NOT_EXECUTED = 126
    NOT_FOUND = 127
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.REFUSED: "refused or failed, and the message says by whom",
    Exit.CONFIG: "wrong usage or configuration",
    Exit.UNREACHABLE: "no authority answers",
    Exit.PROOF: "a proof does not verify",
    Exit.NOT_EXECUTED: "`remit run`: the command is there, but cannot be executed",
    Exit.NOT_FOUND: "`remit run`: there is no such command",
    Exit.INTERRUPTED: "interrupted",
}
"""Every exit status in words; `remit run` otherwise ends with its command's own."""


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
            # In ASCII: no text drives the terminal, and every text can be written.
            sys.stdout.write(jsonlib.dumps(value) + "\n")
        else:
            put(text if text is not None else facts(value))

    def rows(
        self,
        answer: dict[str, Any],
        columns: dict[str, str],
        empty: str,
        *,
        rows: list[dict[str, Any]] | None = None,
    ) -> None:
        """Print one page of items as a table: ``columns`` maps a heading to a field.

        ``rows`` are the items as people see them, where that is more than they hold.
        """
        if self.json:
            self.emit(answer)
            return
        if not answer["items"]:
            put(empty)
            return
        put(table(answer["items"] if rows is None else rows, columns))
        if answer.get("next"):
            put(Text(f"more: --after {printable(answer['next'])}", style="dim"))


DEFAULTS = Common()
