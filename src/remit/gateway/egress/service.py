"""One HTTP API behind the gateway, as its operator describes it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from remit.gateway.egress.addresses import is_literal, is_public
from remit.gateway.egress.operations import Operations
from remit.gateway.injection import Injection
from remit.gateway.options import MEBIBYTE
from remit.gateway.presenting import trusting
from remit.model.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An API: its address, what may be called, and where its credential goes.

    ``url`` is where every operation's path starts; its host is the only one that a request of this
    service is ever sent to. ``private`` allows an address that is not public. ``headers`` are sent
    with every request, as an API's version. ``ca_file`` holds the authorities (PEM) that may have
    signed its certificate, in place of the system's. ``answer_seconds`` bounds the silence before
    and between the bytes of an answer, ``call_seconds`` a whole call.

    Raises:
        ConfigError: a field makes no sense.
    """

    name: str
    url: str
    operations: Operations = field(repr=False)
    trusted: bool = False
    private: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    inject: Injection = field(default_factory=Injection)
    connect_seconds: float = 10.0
    answer_seconds: float = 60.0
    call_seconds: float = 900.0
    max_answer_bytes: int = 64 * MEBIBYTE
    tls: ssl.SSLContext | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        where = f"service `{self.name}`"
        if not _NAME.match(self.name):
            raise ConfigError(f"{where}: a name is a-z 0-9 _ -, at most 63 characters")
        _require_address(self.url, where, private=self.private)
        Injection(headers=self.headers)  # their names have to be such as a credential's
        for name, value in self.headers.items():
            if not value.isprintable() or not value.isascii():
                raise ConfigError(f"{where}: the value of header `{name}` cannot be sent")
        if self.inject.environment or self.inject.meta:
            raise ConfigError(f"{where}: a credential goes into a `header` or into `tls`")
        if not self.operations.all:
            raise ConfigError(f"{where}: there is no operation: nothing could be called")
        if self.url.lower().startswith("https:"):
            object.__setattr__(self, "tls", trusting(self.ca_file, where))
        elif self.inject.tls is not None:
            raise ConfigError(f"{where}: `tls` belongs to a `url` of https")

    @property
    def base(self) -> str:
        """The address without a slash at its end."""
        return self.url.rstrip("/")


def _require_address(url: str, where: str, *, private: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{where}: `url` has to be an http or https address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"{where}: `url` may hold no credentials, query or fragment")
    if parts.scheme == "http" and not private:
        raise ConfigError(
            f"{where}: `url` is not https, and its credential would be readable on the way: "
            "use https, or say `private = true` for an address of your own network"
        )
    if is_literal(parts.hostname) and not is_public(parts.hostname) and not private:
        raise ConfigError(
            f"{where}: `{parts.hostname}` is not a public address: say `private = true` if "
            "agents may reach into your network there"
        )
