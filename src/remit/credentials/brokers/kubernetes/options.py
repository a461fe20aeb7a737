"""What ``[broker.NAME]`` of kind ``kubernetes`` and its grants may say, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from remit.credentials.tables import Seconds, read_table, require_https
from remit.model.errors import ConfigError

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?\Z")
_AUDIENCE = re.compile(r"[!-z|~]{1,256}\Z")
_MOST_AUDIENCES = 8


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker's table; docs/brokers/kubernetes.md says what goes wrong otherwise."""

    url: str
    namespace: str
    token: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    timeout_seconds: Seconds = 2.5


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose token, and for whom."""

    service_account: str
    audiences: list[str] = []


def read_options(name: str, table: Mapping[str, Any]) -> Options:
    """Check a broker's table.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value that makes no sense.
    """
    where = f"`[broker.{name}]`"
    options = read_table(table, Options, where)
    shape = "https://host:port of the API server"
    require_https(f"{where}: `url`", options.url, shape, "every token", path=True)
    if not _LABEL.match(options.namespace):
        raise ConfigError(f"{where}: `namespace` is the name of a namespace")
    return options


def read_grant(raw: Mapping[str, Any]) -> Grant:
    """Return a grant. It has no references: whose token it is is the operator's to say.

    Raises:
        ConfigError: an unknown key, a wrong type, or a name that is none.
    """
    grant = read_table(raw, Grant)
    if not _NAME.match(grant.service_account) or ".." in grant.service_account:
        raise ConfigError(
            f"`service_account`: `{grant.service_account[:60]}` is no name of a service account"
        )
    if len(grant.audiences) > _MOST_AUDIENCES:
        raise ConfigError(f"`audiences` are at most {_MOST_AUDIENCES}")
    for audience in grant.audiences:
        if not _AUDIENCE.match(audience):
            raise ConfigError(f"`audiences`: `{audience[:60]}` is no audience")
    return grant
