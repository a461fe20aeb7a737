"""What ``[broker.NAME]`` of kind ``openbao`` and its grants may say, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from remit.credentials.grants import filled_anyhow
from remit.credentials.tables import Seconds, read_table, require_https
from remit.model.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_PATH = re.compile(r"[A-Za-z0-9_.-]{1,128}(?:/[A-Za-z0-9_.-]{1,128}){0,15}\Z")
_NOT_SECRETS = frozenset({"auth", "sys", "identity", "cubbyhole"})
_MOST_TEXT = 16_384


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker's table; docs/brokers/openbao.md says what goes wrong otherwise."""

    url: str
    login: Literal["token", "approle", "jwt"] = "token"
    token_file: str | None = None
    mount: str | None = None
    role: str | None = None
    role_id: str | None = None
    secret_id_file: str | None = None
    audience: str | None = None
    subject: str = "remit"
    namespace: str | None = None
    ca_file: str | None = None
    token_role: str | None = None
    list_accessors: bool = True
    timeout_seconds: Seconds = 5.0
    connections: int = 8


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one credential may do; ``wrap`` in seconds."""

    policies: tuple[str, ...]
    secret: str | None = None
    parameters: dict[str, str | int | bool | list[str]] = {}
    send_ttl: bool = False
    lives_on: bool = False
    uses: int = 0
    wrap: int = 0


def read_options(name: str, table: Mapping[str, Any]) -> Options:
    """Check a broker's table.

    Raises:
        ConfigError: an unknown key, a wrong type, or settings that contradict each other.
    """
    where = f"`[broker.{name}]`"
    options = read_table(table, Options, where)
    shape = "https://host:port, without a path"
    require_https(f"{where}: `url`", options.url, shape, "every secret")
    for key in ("mount", "role", "token_role"):
        value = getattr(options, key)
        if value is not None and not _NAME.match(value):
            raise ConfigError(f"{where}: `{key}` is one name, not `{value[:40]}`")
    _check_login(options, where)
    if not 1 <= options.connections <= 64:  # noqa: PLR2004 - each is a mint
        raise ConfigError(f"{where}: `connections` is a number from 1 to 64")
    return options


def _check_login(options: Options, where: str) -> None:
    wanted = {
        "token": ("token_file",),
        "approle": ("role_id", "secret_id_file"),
        "jwt": ("role",),
    }[options.login]
    for key in wanted:
        if not getattr(options, key):
            raise ConfigError(f'{where}: `login = "{options.login}"` wants `{key}`')
    for key in ("token_file", "role_id", "secret_id_file", "role"):
        if getattr(options, key) is not None and key not in wanted:
            raise ConfigError(f'{where}: `{key}` has no use with `login = "{options.login}"`')


def check_grant(raw: Mapping[str, Any]) -> None:
    """Look at a grant whose references are not filled in yet.

    Raises:
        ConfigError: what :func:`read_grant` refuses, or arguments that would choose policies.
    """
    policies = raw.get("policies", ())
    if any("{" in str(each) for each in policies if isinstance(policies, list | tuple)):
        # What a credential may do is the operator's to say, never an argument's.
        raise ConfigError("`policies` takes names, not references to the call")
    read_grant(filled_anyhow(raw))


def read_grant(raw: Mapping[str, Any]) -> Grant:
    """Return a grant.

    Raises:
        ConfigError: an unknown key, a wrong type, or a name that is none.
    """
    grant = read_table(raw, Grant)
    if not grant.policies:
        raise ConfigError("`policies` names at least one policy of OpenBao's")
    for policy in grant.policies:
        if not _NAME.match(policy) or policy == "root":
            raise ConfigError(f"`policies`: `{policy[:40]}` is no policy that can be granted")
    if grant.secret is not None:
        _check_path(grant.secret)
    elif grant.parameters or grant.send_ttl or grant.lives_on:
        raise ConfigError("`parameters`, `send_ttl` and `lives_on` belong to a `secret`")
    if grant.secret is not None and (grant.uses or grant.wrap):
        raise ConfigError("`uses` and `wrap` belong to a token: leave `secret` out")
    if grant.uses < 0 or grant.wrap < 0:
        raise ConfigError("`uses` and `wrap` are numbers of at least 0")
    if len(msgspec.json.encode(grant.parameters)) > _MOST_TEXT:
        raise ConfigError(f"`parameters` are longer than {_MOST_TEXT} bytes")
    return grant


def _check_path(path: str) -> None:
    segments = path.split("/")
    if not _PATH.match(path) or not set(segments).isdisjoint({".", ".."}):
        raise ConfigError(f"`secret` is a path such as `database/creds/reader`, not `{path[:60]}`")
    if segments[0] in _NOT_SECRETS:
        raise ConfigError(f"`secret`: `{segments[0]}/` is no secrets engine")
