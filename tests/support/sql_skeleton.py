"""What stands outside the quotes of a PostgreSQL statement: its shape, whatever the names are."""

from __future__ import annotations

import re

_QUOTED = re.compile(r"""[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*\"""", re.DOTALL)


def skeleton(statement: str) -> str:
    """Return a statement with each quoted name and text as ``?``."""
    return _QUOTED.sub("?", statement)
