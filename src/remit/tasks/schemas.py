"""Argument schemas: JSON Schema 2020-12, checked, compiled once, and kept by digest.

A schema may come from an agent, so checking against one has to stay cheap and stay here: nothing
is fetched (a `$ref` reaches only inside its own schema), regular expressions are of the kind that
runs in linear time (no look-around, no back-references), a schema holds at most 16 KiB, and a
request's schema holds no references at all, since a few nested ones can double the work per level.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import msgspec

MAX_SCHEMA_BYTES = 16_384
MAX_DEPTH = 32
_KEPT = 4096
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCES = ("$ref", "$dynamicRef", "$anchor", "$dynamicAnchor", "$id", "$defs", "definitions")
_SHOWN = 80

_compiled: OrderedDict[bytes, jsonschema_rs.Draft202012Validator] = OrderedDict()


class SchemaError(ValueError):
    """A schema cannot be used; the message is the rest of a sentence about it."""


def compile_schema(schema: Any) -> jsonschema_rs.Draft202012Validator:
    """Return the validator of a JSON Schema (2020-12, true and false included).

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
        return found
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
            pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20),
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise SchemaError(f"is not valid 2020-12: {_one_line(str(error))}") from error
    except (ValueError, TypeError) as error:
        raise SchemaError("cannot be compiled") from error
    _compiled[digest] = validator
    while len(_compiled) > _KEPT:
        _compiled.popitem(last=False)
    return validator


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
