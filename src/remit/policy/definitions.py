"""A definition as an upstream claims it, read strictly, and the digest that pins it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from remit.model.errors import InputError

MAX_DEFINITION_BYTES = 256 * 1024
MAX_NAME_CHARACTERS = 2048
"""A resource's URI is its name; tools' names are short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What an upstream claims of one target: its exact JSON, and the hints in it.

    ``name`` is the tool's or prompt's name, or the resource's URI. ``hints`` are its annotations;
    where empty they are read from the JSON.
    """

    name: str
    json_bytes: bytes = field(repr=False)
    hints: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A definition that was read: its digest, and whether it says that it changes things.

    ``changes`` is True where a hint says so, and None where none does. A hint that says that nothing
    is changed is not heard.
    """

    name: str
    digest: str
    definition: bytes = field(repr=False)
    changes: bool | None


def read_definition(definition: Definition, kind: str = "tool") -> Claimed:
    """Read one definition. A resource's size and time of change are left out: they are its content.

    Raises:
        InputError: it is too large, not a JSON object, ambiguous (duplicate keys, numbers beyond
            2^53), or its name cannot be a target's.
    """
    name, data = definition.name, definition.json_bytes
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise InputError("a definition's name is empty, too long or not printable")
    if len(data) > MAX_DEFINITION_BYTES:
        raise InputError(f"the definition of `{name}` is larger than {MAX_DEFINITION_BYTES} bytes")
    try:
        value = json.loads(data, object_pairs_hook=_unique)
        if kind == "resource" and isinstance(value, dict):
            value = _lasting(value)
        canonical = rfc8785.dumps(value)
    except InputError as error:
        raise InputError(f"the definition of `{name}` {error}") from error
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise InputError(f"the definition of `{name}` is not JSON with one reading") from error
    if not isinstance(value, dict):
        raise InputError(f"the definition of `{name}` is not a JSON object")
    hints = definition.hints or value.get("annotations") or {}
    return Claimed(
        name=name,
        digest=f"sha256:{hashlib.sha256(canonical).hexdigest()}",
        definition=canonical,
        changes=_changes(hints),
    )


def _lasting(resource: dict[str, Any]) -> dict[str, Any]:
    """Return a resource's definition without what changes whenever its content does."""
    lasting = {key: value for key, value in resource.items() if key != "size"}
    notes = lasting.get("annotations")
    if isinstance(notes, dict):
        lasting["annotations"] = {k: v for k, v in notes.items() if k != "lastModified"}
        if not lasting["annotations"]:
            del lasting["annotations"]
    return lasting


def _changes(hints: Any) -> bool | None:
    """Return True where a hint raises the risk: destructive, or said not to be read-only."""
    if not isinstance(hints, Mapping):
        return True
    destructive, read_only = hints.get("destructiveHint"), hints.get("readOnlyHint")
    # A hint that is not a boolean is not understood, and so raises the risk.
    calm = (destructive is None or destructive is False) and (
        read_only is None or read_only is True
    )
    return None if calm else True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise InputError("has the same key twice")
    return result
