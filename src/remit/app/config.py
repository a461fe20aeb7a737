"""What `remit.toml` may say, read strictly: an unknown key is an error, not a hope.

Paths are relative to the file that names them. The tables themselves are in app/sections.py.
"""

from __future__ import annotations

import ipaddress
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from remit.app.sections import (
    AuthoritySection,
    Config,
    CredentialSection,
    ServiceSection,
    UpstreamSection,
)
from remit.model.errors import ConfigError

__all__ = ["DEFAULT_FILE", "Config", "Loaded", "load", "parse"]

DEFAULT_FILE = "remit.toml"
MAX_DEPTH = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")
_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]\s/]*):(?P<port>[0-9]{1,5})\Z")
_MOST_LEASE_SECONDS = 600
_URL = re.compile(r"https?://[^\s/]+\S*\Z")


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration and the folder its relative paths start from."""

    config: Config
    folder: Path
    source: Path | None

    def path(self, text: str) -> Path:
        """Return an absolute path for one that the file wrote."""
        return (self.folder / Path(text).expanduser()).resolve()

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.path(self.config.authority.state)

    @property
    def control_socket(self) -> Path:
        """The Unix socket of the control API: only the owner may connect."""
        return self.state / "control.sock"

    @property
    def workload_socket(self) -> Path:
        """The Unix socket of the Workload API, which agents connect to."""
        return self.state / "workload.sock"

    @property
    def keys_elsewhere(self) -> list[str]:
        """Which of Remit's own keys are kept elsewhere: ``log``, ``broker.NAME``."""
        log = ["log"] if self.config.keys.log is not None else []
        brokers = self.config.brokers.items()
        return [*log, *(f"broker.{name}" for name, table in brokers if "ca_key" in table)]

    @property
    def host(self) -> str:
        """The host part of ``listen``."""
        return self.config.authority.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port part of ``listen``."""
        return int(self.config.authority.listen.rpartition(":")[2])

    @property
    def url(self) -> str:
        """The address that clients use."""
        authority = self.config.authority
        scheme = "https" if authority.tls else "http"
        return authority.url or f"{scheme}://{authority.listen}"


def load(path: Path | None) -> Loaded:
    """Read a configuration file; None stands for the embedded defaults in the present folder.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or says something that is not known.
    """
    if path is None:
        return Loaded(config=Config(), folder=Path.cwd(), source=None)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{path}` is not valid TOML: {error}") from error
    return Loaded(config=parse(document, str(path)), folder=path.resolve().parent, source=path)


def parse(document: dict[str, Any], name: str) -> Config:
    """Check a parsed file.

    Raises:
        ConfigError: an unknown key, a wrong type, or settings that contradict each other.
    """
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"`{name}`: {_lower(str(error))}") from error
    _check_authority(config.authority, name)
    _check_upstreams(config, name)
    _check_services(config, name)
    _check_above_zero(msgspec.structs.asdict(config.limits), "`[limits]`", name)
    _check_above_zero({"expires_seconds": config.approvals.expires_seconds}, "`[approvals]`", name)
    if not 0 <= config.delegation.depth <= MAX_DEPTH:
        raise ConfigError(f"`{name}`: `[delegation]`: `depth` is from 0 to {MAX_DEPTH}")
    _check_above_zero({"tasks": config.delegation.tasks}, "`[delegation]`", name)
    _check_leases(config, name)
    for workload in config.workloads:
        if not workload.selectors:
            raise ConfigError(
                f"`{name}`: workload `{workload.agent}` has no selector, "
                "and every process would be that agent"
            )
    _check_issuers(config, name)
    _check_credentials(config, name)
    return config


def _check_authority(authority: AuthoritySection, name: str) -> None:
    if not _TRUST_DOMAIN.match(authority.trust_domain):
        raise ConfigError(
            f"`{name}`: `trust_domain` is lower-case a-z 0-9 . _ -, not `{authority.trust_domain}`"
        )
    listen = _LISTEN.match(authority.listen)
    if listen is None or int(listen["port"]) > 65535:  # noqa: PLR2004 - the highest port
        raise ConfigError(f"`{name}`: `listen` is host:port, not `{authority.listen}`")
    if authority.url is not None and not _URL.match(authority.url):
        raise ConfigError(f"`{name}`: `url` is http://… or https://…, not `{authority.url}`")
    if not _loopback(listen["host"].strip("[]")) and not authority.allow_remote:
        raise ConfigError(
            f'`{name}`: `listen = "{authority.listen}"` is reachable from other machines: '
            "set `allow_remote = true` and `[authority.tls]` if that is what you want"
        )


def _check_upstreams(config: Config, name: str) -> None:
    for upstream, section in config.upstreams.items():
        if not _NAME.match(upstream):
            raise ConfigError(f"`{name}`: upstream `{upstream}`: a name is a-z 0-9 _ -, at most 63")
        if bool(section.command) + bool(section.url) + (section.sql is not None) != 1:
            raise ConfigError(
                f"`{name}`: upstream `{upstream}` takes either `command` or `url`, or `sql`"
            )
        if section.sql is not None and section.credential is None:
            raise ConfigError(
                f"`{name}`: upstream `{upstream}`: `sql` wants a `credential` to run statements with"
            )
        if section.url is not None and not _URL.match(section.url):
            raise ConfigError(f"`{name}`: upstream `{upstream}`: `url` is http://… or https://…")
        numbers = {
            "timeout_seconds": section.timeout_seconds,
            "processes": section.processes,
            "processes_per_agent": section.processes_per_agent,
        }
        _check_above_zero(numbers, f"upstream `{upstream}`", name)


def _check_services(config: Config, name: str) -> None:
    for service, section in config.services.items():
        where = f"`{name}`: service `{service}`"
        if not _NAME.match(service):
            raise ConfigError(f"{where}: a name is a-z 0-9 _ -, at most 63")
        if service in config.upstreams:
            raise ConfigError(f"{where}: an upstream has this name: give one of them another")
        if section.openapi is None and not section.operation:
            raise ConfigError(
                f"{where}: nothing says what may be called: give `openapi`, or "
                f"`[[service.{service}.operation]]`"
            )
        if section.operations and section.openapi is None:
            raise ConfigError(f"{where}: `operations` chooses from an `openapi` document")
        _check_above_zero(
            {"timeout_seconds": section.timeout_seconds}, f"service `{service}`", name
        )


def _check_issuers(config: Config, name: str) -> None:
    for issuer in config.issuers:
        for rule in issuer.rules:
            if bool(rule.agent) == bool(rule.person):
                raise ConfigError(
                    f"`{name}`: a rule of issuer `{issuer.issuer}` takes either `agent` or `person`"
                )
            if not rule.claims:
                raise ConfigError(
                    f"`{name}`: a rule of issuer `{issuer.issuer}` matches every token: "
                    "give the claims that must match"
                )


def _check_credentials(config: Config, name: str) -> None:
    for broker, table in config.brokers.items():
        if not _NAME.match(broker):
            raise ConfigError(f"`{name}`: broker `{broker}`: a name is a-z 0-9 _ -, at most 63")
        if not isinstance(table.get("kind"), str):
            raise ConfigError(f'`{name}`: broker `{broker}` wants a `kind`, as in `kind = "jwt"`')
    sections: list[tuple[str, UpstreamSection | ServiceSection]] = [
        *((f"upstream `{each}`", section) for each, section in config.upstreams.items()),
        *((f"service `{each}`", section) for each, section in config.services.items()),
    ]
    for said, section in sections:
        wanted = section.credential
        if wanted is None:
            continue
        where = f"{said}, `credential`"
        if wanted.broker not in config.brokers:
            known = ", ".join(f"`{each}`" for each in config.brokers) or "none is configured"
            raise ConfigError(
                f"`{name}`: {where}: there is no broker `{wanted.broker}` ({known}): "
                f"add `[broker.{wanted.broker}]`"
            )
        if isinstance(section, UpstreamSection):
            _check_placing(section, wanted, f"`{name}`: {where}")
        elif not (wanted.header or wanted.tls) or wanted.env or wanted.meta:
            raise ConfigError(
                f"`{name}`: {where}: it goes into a `header` or into `tls`, and nowhere else"
            )
        _check_above_zero({"seconds": wanted.seconds}, where, name)


def _check_leases(config: Config, name: str) -> None:
    leases, issuing = config.leases, config.limits.issue_seconds
    for key, value in msgspec.structs.asdict(leases).items():
        if not 1 <= value <= _MOST_LEASE_SECONDS:
            raise ConfigError(
                f"`{name}`: `[leases]`: `{key}` is from 1 to {_MOST_LEASE_SECONDS}, not `{value}`"
            )
    if leases.quarantine_seconds < issuing:
        raise ConfigError(
            f"`{name}`: `[leases]`: `quarantine_seconds` is {leases.quarantine_seconds:g}, and a mint "
            f"may take {issuing:g} (`[limits] issue_seconds`): make it no less, or a mint that lands "
            "late is revoked before it is there, and never again"
        )


def _check_placing(section: UpstreamSection, wanted: CredentialSection, where: str) -> None:
    placed = bool(wanted.header or wanted.env or wanted.meta or wanted.tls)
    if section.sql is not None and placed:
        raise ConfigError(
            f"{where}: `sql` uses the credential itself: leave `header`, `env`, `meta` and `tls` out"
        )
    if section.sql is None and not placed:
        raise ConfigError(
            f"{where}: nothing says where the credential goes: give `header`, `env`, `meta` or `tls`"
        )
    if wanted.env and section.url is not None:
        raise ConfigError(f"{where}: `env` belongs to an upstream with a `command`")
    if wanted.header and section.url is None:
        raise ConfigError(f"{where}: `header` belongs to an upstream with a `url`")


def _check_above_zero(numbers: Mapping[str, float], where: str, name: str) -> None:
    for key, value in numbers.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"`{name}`: {where}: `{key}` is a number above zero, not `{value}`")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
