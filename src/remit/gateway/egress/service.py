"""One HTTP API behind the gateway, as its operator describes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from remit.gateway.egress.addresses import is_literal, is_public
from remit.gateway.egress.operations import Operations
from remit.gateway.injection import Injection
from remit.gateway.options import MEBIBYTE
from remit.model.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An API: its address, what may be called, and where its credential goes.

    ``url`` is where every operation's path starts; its host is the only one that a request of this
    service is ever sent to. ``private`` allows an address that is not public. ``answer_seconds``
    bounds the silence before and between the bytes of an answer, ``call_seconds`` a whole call.

    Raises:
        ConfigError: a field makes no sense.
    """

    name: str
    url: str
    operations: Operations = field(repr=False)
    trusted: bool = False
    private: bool = False
    inject: Injection = field(default_factory=Injection)
    connect_seconds: float = 10.0
    answer_seconds: float = 60.0
    call_seconds: float = 900.0
    max_answer_bytes: int = 64 * MEBIBYTE

    def __post_init__(self) -> None:
        where = f"service `{self.name}`"
        if not _NAME.match(self.name):
            raise ConfigError(f"{where}: a name is a-z 0-9 _ -, at most 63 characters")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"{where}: `url` has to be an http or https address")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(f"{where}: `url` may hold no credentials, query or fragment")
        if parts.scheme == "http" and not self.private:
            raise ConfigError(
                f"{where}: `url` is not https, and its credential would be readable on the way: "
                "use https, or say `private = true` for an address of your own network"
            )
        literal = is_literal(parts.hostname)
        if literal and not is_public(parts.hostname) and not self.private:
            raise ConfigError(
                f"{where}: `{parts.hostname}` is not a public address: say `private = true` if "
                "agents may reach into your network there"
            )
        if not self.operations.all:
            raise ConfigError(f"{where}: there is no operation: nothing could be called")

    @property
    def base(self) -> str:
        """The address without a slash at its end."""
        return self.url.rstrip("/")
