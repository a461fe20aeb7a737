"""What the operator says about the gateway and about each upstream, checked when it is said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from remit.gateway.injection import REFERENCE, Injection
from remit.gateway.sql.options import SqlOptions
from remit.model.errors import ConfigError
from remit.model.subject import Environment

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamOptions:
    """One MCP server behind the gateway: a ``url`` (streamable HTTP) or a ``command`` (stdio).

    Or a database (``sql``), for which the gateway itself is the server.
    ``env`` is all that a command's process gets beside PATH, HOME and the locale. ``trusted`` says
    that the upstream's hints and results may be believed. ``inject`` says where a minted credential
    goes. ``ca_file`` holds the authorities (PEM) that may have signed the certificate of a ``url``, in
    place of the system's. ``answer_seconds`` bounds the silence
    before and between the bytes of an answer, ``call_seconds`` a whole governed call,
    ``restart_seconds`` the longest pause between two starts of a process that keeps dying.
    ``max_processes`` and ``max_processes_per_agent`` bound the processes of a command.

    Raises:
        ConfigError: a field makes no sense.
    """

    name: str
    url: str | None = None
    command: tuple[str, ...] = ()
    sql: SqlOptions | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None
    ca_file: Path | None = None
    environment: Environment = Environment.DEV
    trusted: bool = False
    inject: Injection = field(default_factory=Injection)
    connect_seconds: float = 10.0
    answer_seconds: float = 120.0
    call_seconds: float = 900.0
    start_seconds: float = 30.0
    stop_seconds: float = 3.0
    restart_seconds: float = 30.0
    process_idle_seconds: float = 1800.0
    max_processes: int = 32
    max_processes_per_agent: int = 8
    max_answer_bytes: int = 16 * MEBIBYTE

    def __post_init__(self) -> None:
        where = f"upstream `{self.name}`"
        if not _NAME.match(self.name):
            raise ConfigError(f"{where}: a name is a-z 0-9 _ -, at most 63 characters")
        if bool(self.url) + bool(self.command) + (self.sql is not None) != 1:
            raise ConfigError(f"{where} wants one of `url`, `command` and `sql`")
        if self.url is not None:
            _require_address(self.url, where)
            if self.env or self.cwd is not None:
                raise ConfigError(f"{where}: `env` and `cwd` belong to a `command`")
        secure = self.url is not None and self.url.lower().startswith("https:")
        if not secure and (self.ca_file is not None or self.inject.tls is not None):
            key = "ca_file" if self.ca_file is not None else "tls"
            raise ConfigError(f"{where}: `{key}` belongs to a `url` of https")
        if self.inject.used:
            _require_no_template(self, where)
        for variable in self.env:
            if not _ENV_NAME.match(variable):
                raise ConfigError(f"{where}: `{variable}` is not a variable's name")
        _positive(self, where)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """How the gateway meets its clients.

    ``public_url`` is the origin that clients use (for the RFC 9728 metadata); where it is None, the
    checked Host header of the request serves. ``allowed_hosts`` and ``allowed_origins`` hold exact
    values or ``host:*``; anything else is refused, against DNS rebinding. ``authorization_servers``
    are the issuers named in the metadata. ``audience`` is what a caller's token must be for.

    Raises:
        ConfigError: a field makes no sense.
    """

    audience: str = "remit"
    public_url: str | None = None
    allowed_hosts: tuple[str, ...] = ("127.0.0.1:*", "localhost:*", "[::1]:*")
    allowed_origins: tuple[str, ...] = (
        "http://127.0.0.1:*",
        "http://localhost:*",
        "http://[::1]:*",
    )
    authorization_servers: tuple[str, ...] = ()
    max_body_bytes: int = 4 * MEBIBYTE
    max_depth: int = 64
    max_sessions: int = 10_000
    max_sessions_per_agent: int = 1_000
    session_idle_seconds: float = 1800.0

    def __post_init__(self) -> None:
        if self.public_url is not None:
            parts = urlsplit(self.public_url)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
                raise ConfigError("`public_url` has to be an http or https address")
        if not self.allowed_hosts:
            raise ConfigError("`allowed_hosts` is empty: nobody could reach the gateway")
        _positive(self, "gateway")


def _require_address(url: str, where: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{where}: `url` has to be an http or https address")
    if parts.username or parts.password or parts.fragment:
        raise ConfigError(f"{where}: `url` may hold neither credentials nor a fragment")


def _require_no_template(options: UpstreamOptions, where: str) -> None:
    """Refuse a credential where others read it: among processes' arguments, in addresses."""
    for key, texts in (("command", options.command), ("url", (options.url or "",))):
        for found in map(REFERENCE.search, texts):
            if found is not None:
                raise ConfigError(
                    f"{where}: `{key}` may not hold a credential (`{found[0]}`): "
                    "put it into a `header`, `env` or `meta` of `credential`"
                )


def _positive(options: UpstreamOptions | GatewayOptions, where: str) -> None:
    for each in fields(options):
        value = getattr(options, each.name)
        if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
            raise ConfigError(f"{where}: `{each.name}` has to be above zero")
