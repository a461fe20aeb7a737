"""Argument schemas: JSON Schema 2020-12, checked, compiled once, and kept by digest.

A schema may come from an agent, so checking against one has to stay cheap and stay here: nothing
is fetched (a `$ref` reaches only inside its own schema), regular expressions are of the kind that
runs in linear time (no look-around, no back-references), a schema holds at most 16 KiB, and a
request's schema holds no references at all, since a few nested ones can double the work per level.
Seven characters of a pattern can take a megabyte and hold up every call while they are compiled: a
request has few patterns, each small once compiled, and none is held against a very long text.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import msgspec

MAX_SCHEMA_BYTES = 16_384
MAX_DEPTH = 32
MAX_ASKED_PATTERNS = 32
"""Patterns of one request, all its schemas together."""
MAX_MATCHED = 65_536
"""Characters of one argument that a schema with a pattern is held against."""
KEPT_PATTERNS = 1024
_KEPT = 4096
_PATTERN_BYTES = 1 << 20
_ASKED_PATTERN_BYTES = 1 << 17
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCES = ("$ref", "$dynamicRef", "$anchor", "$dynamicAnchor", "$id", "$defs", "definitions")
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class _Kept:
    """A compiled schema, and how many patterns it holds."""

    validator: jsonschema_rs.Draft202012Validator
    patterns: int


_compiled: OrderedDict[bytes, _Kept] = OrderedDict()


class SchemaError(ValueError):
    """A schema cannot be used; the message is the rest of a sentence about it."""


def compile_schema(schema: Any, *, asked: bool = False) -> jsonschema_rs.Draft202012Validator:
    """Return the validator of a JSON Schema (2020-12, true and false included).

    ``asked`` is for the schema of a request: its patterns have to be small once compiled.

    Raises:
        SchemaError: the schema is invalid, too large, too deep, or reaches outside itself.
    """
    if not isinstance(schema, bool | dict):
        raise SchemaError("is not a JSON Schema: a table or a boolean is")
    try:
        encoded = msgspec.json.encode(schema, order="deterministic")
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise SchemaError("holds a value that JSON does not have") from error
    if len(encoded) > MAX_SCHEMA_BYTES:
        raise SchemaError(f"holds more than {MAX_SCHEMA_BYTES} bytes")
    digest = hashlib.sha256(encoded).digest()
    found = _compiled.get(digest)
    if found is not None:
        _compiled.move_to_end(digest)
        return found.validator
    if _depth(schema) > MAX_DEPTH:
        raise SchemaError(f"is nested more than {MAX_DEPTH} deep")
    if isinstance(schema, dict) and schema.get("$schema", _DIALECT) != _DIALECT:
        raise SchemaError(f"names another dialect than `{_DIALECT}`")
    try:
        validator = jsonschema_rs.Draft202012Validator(
            schema,
            offline=True,
            validate_formats=True,
            ignore_unknown_formats=False,
            pattern_options=jsonschema_rs.RegexOptions(
                size_limit=_ASKED_PATTERN_BYTES if asked else _PATTERN_BYTES
            ),
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        said = _one_line(str(error))
        if patterns_in(schema) and said.endswith('is not a "regex"'):
            said += " without look-around and back-references, or too large: write it shorter"
        raise SchemaError(f"is not valid 2020-12: {said}") from error
    except (ValueError, TypeError) as error:
        raise SchemaError("cannot be compiled") from error
    _keep(digest, _Kept(validator, patterns_in(schema)))
    return validator


def _keep(digest: bytes, compiled: _Kept) -> None:
    _compiled[digest] = compiled
    patterns = sum(each.patterns for each in _compiled.values()) if compiled.patterns else 0
    while len(_compiled) > 1 and (len(_compiled) > _KEPT or patterns > KEPT_PATTERNS):
        _, dropped = _compiled.popitem(last=False)
        patterns -= dropped.patterns


def patterns_in(schema: Any) -> int:
    """Return how many regular expressions a schema holds, at most; it may be nested at will."""
    found, waiting = 0, [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            found += "pattern" in each
            named = each.get("patternProperties")
            found += len(named) if isinstance(named, Mapping) else 0
            waiting.extend(each.values())
        elif isinstance(each, list | tuple):
            waiting.extend(each)
    return found


def is_too_long(value: Any, schema: Any) -> bool:
    """Return whether an argument has more text than the patterns of its schema are held against."""
    if isinstance(value, str) and len(value) <= MAX_MATCHED:
        return False
    return patterns_in(schema) > 0 and _characters(value) > MAX_MATCHED


def _characters(value: Any) -> int:
    found, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            found += len(each)
        elif isinstance(each, Mapping):
            waiting.extend(each)
            waiting.extend(each.values())
        elif isinstance(each, list | tuple):
            waiting.extend(each)
    return found


def reference_in(schema: Any) -> str | None:
    """Return a keyword of the schema that refers or can be referred to, or None."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in _REFERENCES:
                return str(key)
            if (inner := reference_in(value)) is not None:
                return inner
    elif isinstance(schema, list | tuple):
        for value in schema:
            if (inner := reference_in(value)) is not None:
                return inner
    return None


def is_pinned(schema: Any) -> bool:
    """Return whether the schema allows one constant only, so that leaving it out is a change."""
    if not isinstance(schema, Mapping):
        return False
    parts = schema.get("allOf", ())
    return "const" in schema or (
        isinstance(parts, list | tuple) and any(is_pinned(part) for part in parts)
    )


def _depth(value: Any, level: int = 1) -> int:
    if level > MAX_DEPTH:
        return level
    if isinstance(value, Mapping):
        return max((_depth(inner, level + 1) for inner in value.values()), default=level)
    if isinstance(value, list | tuple):
        return max((_depth(inner, level + 1) for inner in value), default=level)
    return level


def _one_line(text: str) -> str:
    first = text.strip().splitlines()[0] if text.strip() else "no reason given"
    return first[: 2 * _SHOWN].replace("\x1b", "")
