"""A JSON reader that refuses whatever two readers could read differently.

What policy evaluated must be what the upstream reads (promise 6). So: UTF-8 without a byte order
mark, no duplicate key, no keys that differ only in case, no integer beyond 2^53, nothing that is
not finite, no lone surrogate, and bounded depth. RFC 8259 is the syntax, RFC 7493 (I-JSON) most of
the rest.
"""

from __future__ import annotations

import json
from typing import Any

from remit.model.errors import InputError

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that every reader holds exactly (RFC 7493 section 2.2)."""

_MAX_SAFE_DIGITS = 17


class MalformedJsonError(InputError):
    """The bytes are not JSON at all."""


def read(body: bytes, *, max_depth: int = 64) -> Any:
    """Return the value that ``body`` holds.

    Args:
        body: the whole text, as it came.
        max_depth: how deeply arrays and objects may nest.

    Raises:
        MalformedJsonError: it is not JSON (RFC 8259), or not UTF-8.
        InputError: it is JSON, but ambiguous or nested too deeply.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedJsonError(f"the body is not utf-8, from byte {error.start} on") from error
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedJsonError(
            f"the body is not json: {error.msg.lower()} at character {error.pos}"
        ) from error
    except RecursionError as error:
        raise InputError(f"the body nests deeper than {max_depth} levels") from error
    openings = text.count("[") + text.count("{")
    if openings > max_depth or "\\u" in text:
        _check(value, max_depth)
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InputError("a key appears twice in one object")
    if len({key.casefold() for key in found}) != len(pairs):
        raise InputError("two keys of one object differ only in case")
    return found


def _integer(text: str) -> int:
    # The length comes first: int() of a million digits is slow.
    if len(text) > _MAX_SAFE_DIGITS or abs(number := int(text)) > MAX_SAFE_INTEGER:
        raise InputError("an integer is beyond 2^53, where readers disagree on its value")
    return number


def _real(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise InputError("a number is too large for a double")
    return number


def _constant(name: str) -> Any:
    raise MalformedJsonError(f"the body is not json: `{name}` is not a value")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_real, parse_constant=_constant
)


def _check(value: Any, max_depth: int) -> None:
    """Walk the value without recursion: depth, and strings that UTF-8 cannot hold."""
    level = [value]
    depth = 0
    while level:
        below: list[Any] = []
        nested = False
        for each in level:
            if isinstance(each, str):
                _text(each)
            elif isinstance(each, dict):
                nested = True
                for key in each:
                    _text(key)
                below.extend(each.values())
            elif isinstance(each, list):
                nested = True
                below.extend(each)
        depth += nested
        if depth > max_depth:
            raise InputError(f"the body nests deeper than {max_depth} levels")
        level = below


def _text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("a string holds half of a surrogate pair") from error
