"""What ``[broker.NAME]`` of kind ``postgres`` may say, read strictly."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from remit.credentials.brokers.postgres.grants import check_name
from remit.credentials.brokers.postgres.password import ROUNDS
from remit.credentials.tables import Seconds, read_table
from remit.model.errors import ConfigError

_CHECKED = ("verify-ca", "verify-full")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[broker.NAME]`` of kind ``postgres``; docs/brokers/postgres.md says what each is for."""

    host: str
    database: str
    user: str
    password: str | None = None
    password_file: str | None = None
    port: int = 5432
    sslmode: str | None = None
    ca: str | None = None
    timeout_seconds: Seconds = 5.0
    connections: int = 4
    password_rounds: int = ROUNDS
    owned: str = "drop"
    reassign_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server is and how the way there is secured; nothing of it is secret."""

    host: str
    port: int
    database: str
    sslmode: str
    ca: str | None = None

    def parameters(self) -> dict[str, str]:
        """Return libpq's parameters."""
        given = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.database,
            "sslmode": self.sslmode,
        }
        return given | ({"sslrootcert": self.ca} if self.ca else {})


def read_options(table: Mapping[str, Any]) -> Options:
    """Check a broker's table.

    Raises:
        ConfigError: an unknown key, a wrong type, or settings that contradict each other.
    """
    options = read_table(table, Options)
    for key in ("database", "user"):
        check_name(getattr(options, key), key)
    if options.owned not in {"drop", "reassign"}:
        raise ConfigError('`owned` is "drop" or "reassign"')
    if (options.owned == "reassign") != (options.reassign_to is not None):
        raise ConfigError('`owned = "reassign"` and `reassign_to` belong together')
    if options.reassign_to is not None:
        check_name(options.reassign_to, "reassign_to")
        if options.reassign_to == options.user:
            raise ConfigError(
                "`reassign_to`: a function of the agent's would run with the admin account's "
                "powers; name a role that has none"
            )
    if not 1 <= options.connections <= 64:  # noqa: PLR2004 - a server has a hundred by default
        raise ConfigError("`connections` is 1 to 64")
    if not 1 <= options.password_rounds <= 100 * ROUNDS:
        raise ConfigError(f"`password_rounds` is 1 to {100 * ROUNDS}")
    return options


def address(options: Options, path: Callable[[str], Path]) -> Address:
    """Return where to connect.

    Raises:
        ConfigError: the way to another machine would not be checked.
    """
    if not options.host or any(not c.isprintable() or c == "," for c in options.host):
        raise ConfigError("`host` is one name, address or folder of a socket")
    if not 1 <= options.port <= 65_535:  # noqa: PLR2004 - a TCP port
        raise ConfigError("`port` is 1 to 65535")
    here = _here(options.host)
    mode = options.sslmode or ("prefer" if here else "verify-full")
    known = ("disable", "prefer", "require", *_CHECKED)
    if mode not in known:
        raise ConfigError(f"`sslmode` is one of {', '.join(known)}, not `{mode[:20]}`")
    if not here and mode not in _CHECKED:
        raise ConfigError(
            f'`sslmode = "{mode}"` would give the password to whoever answers for '
            f"`{options.host}`: use verify-full, with `ca`"
        )
    return Address(
        host=options.host,
        port=options.port,
        database=options.database,
        sslmode=mode,
        ca=str(path(options.ca)) if options.ca else None,
    )


def _here(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
