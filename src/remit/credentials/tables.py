"""Reads what brokers are told: tables and addresses, strictly, and their own secrets, never in clear.

A secret of a broker's own stands in a file of mode 0600 (``…_file``) or in the environment
(``"env:NAME"``). It is read anew each time, so that it can be rotated under a running Remit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from remit.model.errors import ConfigError

_T = TypeVar("_T", bound=msgspec.Struct)
_MOST_BYTES = 64 * 1024
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:]+\]|[^/:\s@?#]+)(?::[0-9]{1,5})?(?P<path>(?:/[A-Za-z0-9._-]+)*)/?\Z"
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

Seconds = Annotated[float, msgspec.Meta(gt=0, le=60)]
"""How long one request may take: a minute is long."""


def read_table(table: Mapping[str, Any], kind: type[_T], where: str = "") -> _T:
    """Return a table as the struct ``kind``, which forbids unknown fields.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of bounds; it begins with
            ``where``.
    """
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        said = str(error)
        plain = (said[:1].lower() + said[1:]).replace("\n", " ")
        raise ConfigError(f"{where}: {plain}" if where else plain) from error


def require_https(key: str, url: str, shape: str, risk: str, *, path: bool = False) -> None:
    """Refuse what is no https address, or http on loopback.

    Args:
        key: the table and its option, for messages.
        url: what stands there.
        shape: how an address looks, for messages.
        risk: what would cross the network in clear, for messages.
        path: whether the address may have one.

    Raises:
        ConfigError: it is something else.
    """
    found = _URL.match(url)
    if found is None or (found["path"] and not path):
        raise ConfigError(f"{key} is {shape}")
    if found["scheme"] == "http" and found["host"] not in _LOOPBACK:
        raise ConfigError(f"{key} wants https: {risk} would cross the network")


def secret_source(
    key: str, value: str | None, file: str | None, path: Callable[[str], Path]
) -> Callable[[], str]:
    """Return what reads a secret anew each time: ``value`` is ``env:NAME``, or ``file`` is named.

    Args:
        key: the option's name, for messages; the file's option is ``<key>_file``.
        value: what stands under ``key``.
        file: what stands under ``<key>_file``.
        path: makes a path of the configuration absolute.

    Raises:
        ConfigError: none or two are named, the secret itself stands there, or it cannot be read.
    """
    if (value is None) == (file is None):
        raise ConfigError(f'name either `{key}_file` or `{key} = "env:NAME"`')
    if file is not None:
        where = path(file)

        def read() -> str:
            return _from_file(f"{key}_file", where)

    else:
        variable = (value or "").removeprefix("env:")
        if not variable or variable == value:
            raise ConfigError(
                f'`{key}` must not stand in the configuration: say "env:NAME", or use `{key}_file`'
            )

        def read() -> str:
            text = os.environ.get(variable, "")
            if not text:
                raise ConfigError(f"`{key}`: the environment has no `{variable}`")
            return text

    read()
    return read


def _from_file(key: str, file: Path) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="utf-8") as opened:
            if os.fstat(descriptor).st_mode & 0o077:
                raise ConfigError(f"`{key}`: others can read `{file}`: run `chmod 600 {file}`")
            text = opened.read(_MOST_BYTES).strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{key}`: `{file}` cannot be read") from error
    if not text or "\x00" in text:
        raise ConfigError(f"`{key}`: `{file}` holds no secret")
    return text
