"""The page of every command, made from the help that the commands give themselves."""

from __future__ import annotations

import re
import sys

from remit.cli.common import MEANINGS
from remit.cli.main import app

_HEAD = """\
# Command line

Made by `make docs` from what `--help` says. Every command takes `--help`, and `--json` for one JSON
document on standard output, errors included: `{"error": {"code", "message"}}`. `remit
--install-completion` completes commands and options in bash, zsh and fish. Colour is left out where
`NO_COLOR` is set or nobody looks at a terminal, and in a pipe lines are as long as they are.

## Exit status

| status | meaning |
|---|---|
"""


def page() -> str:
    """Return the page, in Markdown."""
    rows = "".join(f"| {status:d} | {meaning} |\n" for status, meaning in MEANINGS.items())
    told = "\nOtherwise `remit run` ends with its command's own status, 128 + n for signal n.\n\n"
    made = app.generate_docs(flatten_commands=True, heading_level=2)
    _, _, commands = made.partition("## Table of Contents")
    # Completion is an option and no command: it is told of above.
    commands = re.sub(r"(?m)^.*\[`--install-completion`\].*\n", "", commands)
    commands = re.sub(r"(?ms)^## remit --install-completion$.*?(?=^## )", "", commands)
    index, _, sections = commands.partition("**Commands**")
    # How this program was started is no part of how a command is.
    sections = re.sub(r"(?m)^(remit [a-z -]+?) -m \S+ ", r"\1 ", sections)
    sections = sections[sections.index("\n## ") :].replace("```console", "```text")
    return _HEAD + rows + told + "## Commands\n" + index.rstrip() + "\n" + sections.rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
