"""Puts members into ``params._meta`` of a message, and leaves every other byte where it was.

What was evaluated is what is forwarded (promise 6), so nothing is decoded and written anew: the
text is walked as far as the place, and cut open there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

_SPACE = " \t\n\r"
_VALUE = json.JSONDecoder()


def with_meta(body: bytes, members: Mapping[str, str]) -> bytes:
    """Return a message with string members added to its ``params._meta``.

    Args:
        body: a JSON-RPC message that :func:`remit.gateway.strict_json.read` has read; its
            ``params`` and ``_meta`` are objects where they are there.
        members: names that its ``_meta`` does not have.
    """
    text = body.decode()
    added = msgspec.json.encode(dict(members)).decode()[1:-1]
    opening = text.index("{")
    params = _member(text, opening, "params")
    if params is None:
        return _opened(text, opening, f'"params":{{"_meta":{{{added}}}}}')
    meta = _member(text, params, "_meta")
    if meta is None:
        return _opened(text, params, f'"_meta":{{{added}}}')
    return _opened(text, meta, added)


def _opened(text: str, opening: int, added: str) -> bytes:
    """Return the text with members added behind the brace at ``opening``."""
    empty = text[_past_space(text, opening + 1)] == "}"
    return f"{text[: opening + 1]}{added}{'' if empty else ','}{text[opening + 1 :]}".encode()


def _member(text: str, opening: int, name: str) -> int | None:
    """Return where the value of a member begins, in the object that begins at ``opening``."""
    at = _past_space(text, opening + 1)
    while text[at] != "}":
        # A key may be written with escapes: what it is called is what counts.
        key, end = _VALUE.raw_decode(text, at)
        value = _past_space(text, _past_space(text, end) + 1)
        if key == name:
            return value
        _, end = _VALUE.raw_decode(text, value)
        at = _past_space(text, end)
        if text[at] == ",":
            at = _past_space(text, at + 1)
    return None


def _past_space(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at
