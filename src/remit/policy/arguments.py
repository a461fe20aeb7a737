"""Arguments of any shape, laid out flat so that policy sees every one of them.

An argument at the top goes by its name; one further down by its JSON Pointer (RFC 6901), as does
one at the top whose name begins with ``/``. So no two values can share a key. Text is the string
itself, or the RFC 8785 form of anything else; a list or object at the top also has its whole text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import rfc8785

from remit.model.errors import InputError

MAX_VALUES = 4096
MAX_TEXT_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 64
_LONG = 2**63
_DECIMAL_PLACES = 4
_DECIMAL_LIMIT = Decimal(_LONG).scaleb(-_DECIMAL_PLACES)


@dataclass(slots=True)
class Flat:
    """The arguments, by key: text, whole numbers, decimals (as Cedar writes them) and types."""

    names: list[str] = field(default_factory=list)
    text: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    decimals: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)


def flatten(arguments: Mapping[str, Any]) -> Flat:
    """Lay the arguments out flat.

    Raises:
        InputError: there are more than ``MAX_VALUES`` values, more than ``MAX_TEXT_BYTES`` of
            text, more than ``MAX_DEPTH`` levels, or a value that is not JSON; policy could not see
            every argument, so nothing may be decided on a part of them.
    """
    flat = Flat(names=sorted(arguments))
    for name, value in arguments.items():
        key = name if not name.startswith("/") else _pointer("", name)
        _lay(flat, key, _pointer("", name), value, 1)
        if isinstance(value, dict | list):
            flat.text[key] = _canonical(value)
    size = sum(len(value) for value in flat.text.values())
    if size > MAX_TEXT_BYTES:
        raise InputError(f"the arguments hold more than {MAX_TEXT_BYTES} characters of text")
    return flat


def _pointer(above: str, name: str) -> str:
    return f"{above}/{name.replace('~', '~0').replace('/', '~1')}"


def _canonical(value: Any) -> str:
    try:
        return rfc8785.dumps(value).decode()
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError, TypeError) as error:
        raise InputError("an argument has no canonical JSON form") from error


def _lay(flat: Flat, key: str, pointer: str, value: Any, depth: int) -> None:
    if len(flat.types) >= MAX_VALUES:
        raise InputError(f"the arguments hold more than {MAX_VALUES} values")
    if depth > MAX_DEPTH:
        raise InputError(f"the arguments are nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        flat.types[key] = "object"
        for name, inner in value.items():
            below = _pointer(pointer, name)
            _lay(flat, below, below, inner, depth + 1)
    elif isinstance(value, list | tuple):
        flat.types[key] = "array"
        for index, inner in enumerate(value):
            below = f"{pointer}/{index}"
            _lay(flat, below, below, inner, depth + 1)
    elif isinstance(value, str):
        flat.types[key] = "string"
        flat.text[key] = value
    elif value is None or isinstance(value, bool):
        flat.types[key] = "null" if value is None else "boolean"
        flat.text[key] = "null" if value is None else str(value).lower()
    else:
        _lay_number(flat, key, value)


def _lay_number(flat: Flat, key: str, value: Any) -> None:
    if not isinstance(value, int | float | Decimal):
        raise InputError("an argument is not JSON")
    flat.text[key] = _canonical(float(value) if isinstance(value, Decimal) else value)
    # repr() of a double is the shortest text that reads back as it, as in RFC 8785.
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    whole = exact == exact.to_integral_value()
    flat.types[key] = "integer" if whole else "number"
    if whole and -_LONG <= exact < _LONG:
        flat.numbers[key] = int(exact)
    if -_DECIMAL_LIMIT <= exact < _DECIMAL_LIMIT and (
        whole or int(exact.normalize().as_tuple().exponent) >= -_DECIMAL_PLACES
    ):
        flat.decimals[key] = f"{exact:.4f}"
