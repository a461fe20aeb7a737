"""The schema of facts: read from the hand-written file, and cut down to what a slice reads.

The file is Cedar's, in a plain layout that this module reads too: one attribute a line, and
``//@`` above what it describes. A test holds that both readings agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from remit.model.errors import ConfigError

SCHEMA_FILE = "schema.cedarschema"
ROOT = "Facts"
ACTIONS = ("call_tool", "read_resource", "get_prompt")

Path = tuple[str, ...]
"""Where a fact is, from ``context`` down; ``()`` is all of it."""

_ENTITY = re.compile(r"entity (\w+)(?: in \[(\w+)\])?(?: tags (\w+))?;\Z")
_TYPE = re.compile(r"type (\w+) = \{\Z")
_ATTRIBUTE = re.compile(r"(\w+)(\?)?: ([\w<>]+),\Z")
_ACTION = re.compile(r"action (\w+) appliesTo \{.*\};\Z")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One fact: its name, Cedar type and meaning."""

    name: str
    type: str
    optional: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class Declared:
    """One entity, type or action, with its meaning; ``attributes`` is empty but for a type."""

    kind: str
    name: str
    meaning: str
    text: str
    attributes: tuple[Attribute, ...] = ()


@cache
def builtin_text() -> str:
    """Return the schema as the code carries it."""
    folder = resources.files("remit.policy") / "bundle" / "default"
    return (folder / SCHEMA_FILE).read_text(encoding="utf-8")


@cache
def declarations(text: str) -> tuple[Declared, ...]:
    """Read the schema file's declarations, in order.

    Raises:
        ConfigError: a line is not in the layout.
    """
    found: list[Declared] = []
    attributes: list[Attribute] = []
    opened: tuple[str, str] | None = None
    meaning = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("//@"):
            meaning = line[3:].strip()
            continue
        if not line or line.startswith("//"):
            continue
        if opened is not None and line == "};":
            found.append(Declared("type", opened[0], opened[1], "", tuple(attributes)))
            opened, attributes = None, []
        elif opened is not None and (m := _ATTRIBUTE.match(line)):
            attributes.append(Attribute(m[1], m[3], bool(m[2]), meaning))
        elif opened is None and (m := _TYPE.match(line)):
            opened = (m[1], meaning)
        elif opened is None and (m := _ENTITY.match(line)):
            found.append(Declared("entity", m[1], meaning, line))
        elif opened is None and (m := _ACTION.match(line)):
            found.append(Declared("action", m[1], meaning, line))
        else:
            raise ConfigError(f"`{SCHEMA_FILE}` line {number} is not in its layout: `{line}`")
        meaning = ""
    return tuple(found)


@cache
def types(text: str) -> dict[str, tuple[Attribute, ...]]:
    """Return the attributes of every record type."""
    return {d.name: d.attributes for d in declarations(text) if d.kind == "type"}


def leaves(text: str, type_name: str = ROOT, above: Path = ()) -> Iterable[tuple[Path, Attribute]]:
    """Yield every fact below a type, with its path from ``context``."""
    known = types(text)
    for attribute in known[type_name]:
        path = (*above, attribute.name)
        if attribute.type in known:
            yield from leaves(text, attribute.type, path)
        else:
            yield path, attribute


def is_read(path: Path, reads: frozenset[Path]) -> bool:
    """Whether what is at ``path`` is read: it, something above it, or something below it."""
    return any(path[: len(read)] == read or read[: len(path)] == path for read in reads)


def projected(text: str, reads: frozenset[Path]) -> str:
    """Return the schema with only the facts in ``reads``, as Cedar text.

    Request and schema are cut by the same rule, so the check of one against the other stays whole.
    """
    lines = [d.text for d in declarations(text) if d.kind in {"entity", "action"}]
    body = _record(text, ROOT, (), reads)
    return "\n".join([*lines, f"type {ROOT} = {body};"])


def _record(text: str, type_name: str, above: Path, reads: frozenset[Path]) -> str:
    known = types(text)
    parts = []
    for attribute in known[type_name]:
        path = (*above, attribute.name)
        if not is_read(path, reads):
            continue
        inner = (
            _record(text, attribute.type, path, reads)
            if attribute.type in known
            else attribute.type
        )
        parts.append(f'"{attribute.name}"{"?" if attribute.optional else ""}: {inner}')
    return "{" + ", ".join(parts) + "}"
