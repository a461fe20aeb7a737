"""A JSON reader that refuses whatever two readers could read differently.

What policy evaluated must be what the upstream reads (promise 6). So: UTF-8 without a byte order
mark, no duplicate key, no keys that differ only in case, no integer beyond 2^53, no number that a
double does not hold to its last digit, no lone surrogate, and bounded depth. RFC 8259 is the syntax,
RFC 7493 (I-JSON) most of the rest. And nothing that costs those who walk it more than its bytes
cost us: the number of members is bounded.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from remit.model.errors import InputError

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that every reader holds exactly (RFC 7493 section 2.2)."""

MAX_MEMBERS = 10_000
"""How many members and elements all objects and arrays of one body may have together."""

_MAX_SAFE_DIGITS = 17
_MAX_REAL_CHARACTERS = 128
_SURE_CHARACTERS = 16
# It takes a string without an end for one, and looks at each character once, whatever comes.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class MalformedJsonError(InputError):
    """The bytes are not JSON at all."""


def read(body: bytes, *, max_depth: int = 64, max_members: int = MAX_MEMBERS) -> Any:
    """Return the value that ``body`` holds.

    Args:
        body: the whole text, as it came.
        max_depth: how deeply arrays and objects may nest.
        max_members: how many members and elements there may be in all.

    Raises:
        MalformedJsonError: it is not JSON (RFC 8259), or not UTF-8.
        InputError: it is JSON, but ambiguous, nested too deeply, or of too many members.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedJsonError(f"the body is not utf-8, from byte {error.start} on") from error
    openings = text.count("[") + text.count("{")
    if openings + text.count(",") > max_members and _members(text) > max_members:
        raise InputError(f"the body has more than {max_members} members")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedJsonError(
            f"the body is not json: {error.msg.lower()} at character {error.pos}"
        ) from error
    except RecursionError as error:
        raise InputError(f"the body nests deeper than {max_depth} levels") from error
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
    if len(text) > _MAX_REAL_CHARACTERS:
        raise InputError(f"a number is written with more than {_MAX_REAL_CHARACTERS} characters")
    number = float(text)
    if len(text) <= _SURE_CHARACTERS and "e" not in text and "E" not in text:
        # A double holds any fifteen digits.
        return number
    if number in (float("inf"), float("-inf")):
        raise InputError("a number is too large for a double")
    # Not even a zero here is sure: it may have been too small for a double. Its exponent may be
    # anything then, so it is not compared.
    mantissa = text.lower().partition("e")[0]
    lost = mantissa.strip("-0.") != "" if number == 0 else Decimal(text) != Decimal(repr(number))
    if lost:
        raise InputError("a number has more digits than a double holds, and readers would disagree")
    return number


def _constant(name: str) -> Any:
    raise MalformedJsonError(f"the body is not json: `{name}` is not a value")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_real, parse_constant=_constant
)


def _members(text: str) -> int:
    """Count members and elements before anything is made of them: one comma less than there are."""
    bare = _STRING.sub("", text)
    opened = bare.count("[") + bare.count("{") - bare.count("[]") - bare.count("{}")
    return bare.count(",") + opened


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
