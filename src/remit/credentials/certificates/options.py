"""Reads the tables of the brokers that sign certificates, and names what is wrong by its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from remit.model.errors import ConfigError

_T = TypeVar("_T", bound=msgspec.Struct)


def read_table(table: Mapping[str, Any], kind: type[_T], where: str) -> _T:
    """Return a table as the struct ``kind``, strictly.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of bounds.
    """
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_plain(str(error))}") from error


def refers(value: str) -> bool:
    """Whether a text of a grant waits to be filled from the call or its task."""
    return "{args." in value or "{task." in value


def _plain(text: str) -> str:
    return (text[:1].lower() + text[1:]).replace("\n", " ")
