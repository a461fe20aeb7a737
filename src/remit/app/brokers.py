"""Makes the brokers that the configuration names, and binds upstreams and services to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from remit.api.oauth import Tokens
from remit.app.config import Loaded
from remit.app.sections import CredentialSection, UpstreamSection
from remit.credentials.brokers.jwt.broker import TOKEN_TYP, JwtBroker
from remit.credentials.grants import check_grant
from remit.credentials.leases import Leases
from remit.credentials.port import Binding, Broker, Surroundings
from remit.gateway.injection import REFERENCE, Injection
from remit.identity.trust_domain import TrustDomain
from remit.model.errors import ConfigError
from remit.model.lease import LeaseScope
from remit.model.record import Step
from remit.plugins import load_broker


@runtime_checkable
class SenderBound(Protocol):
    """A broker whose tokens may be of no use but to whoever holds a key, which a request has to show.

    ``dpop``: by a proof in a header of its own (RFC 9449). ``mtls``: by the client certificate of the
    connection (RFC 8705), whose key and text are values of the credential.
    """

    @property
    def bound(self) -> Literal["none", "dpop", "mtls"]:
        """How its tokens are bound."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Brokers:
    """Every configured broker, and what binds an upstream to one."""

    by_name: Mapping[str, Broker] = field(default_factory=dict)
    bindings: Mapping[str, Binding] = field(default_factory=dict)
    loaded: tuple[Step, ...] = ()

    async def close(self) -> None:
        """Let go of every target."""
        for broker in self.by_name.values():
            await broker.close()


def open_brokers(loaded: Loaded, surroundings: Surroundings) -> Brokers:
    """Make every broker that ``remit.toml`` names, without contacting a target.

    Raises:
        ConfigError: a broker's options or an upstream's grant are wrong.
    """
    made = {
        name: load_broker(name, table, surroundings)
        for name, table in loaded.config.brokers.items()
    }
    by_name = {name: broker for name, (broker, _) in made.items()}
    _require_other_audience(loaded, by_name)
    config = loaded.config
    bindings = {
        name: _binding(
            f"{kind} `{name}`",
            section.credential,
            by_name,
            ours=isinstance(section, UpstreamSection) and section.sql is not None,
        )
        for kind, sections in (("upstream", config.upstreams), ("service", config.services))
        for name, section in sections.items()
        if section.credential is not None
    }
    return Brokers(
        by_name=by_name, bindings=bindings, loaded=tuple(step for _, step in made.values())
    )


def _require_other_audience(loaded: Loaded, brokers: Mapping[str, Broker]) -> None:
    """Refuse to sign tokens for ourselves: with Remit among its own issuers, they would log in here.

    Raises:
        ConfigError: a `jwt` broker's audience is the authority's own.
    """
    ours = loaded.config.authority.audience
    for name, broker in brokers.items():
        if isinstance(broker, JwtBroker) and broker.audience == ours:
            raise ConfigError(
                f"broker `{name}`: `audience` is `{ours}`, which is this authority's own: name the "
                "resource that its tokens are for"
            )


def injection(section: CredentialSection | None) -> Injection:
    """Return where an upstream's credential goes.

    Raises:
        ConfigError: a header that a credential must not set.
    """
    if section is None:
        return Injection()
    return Injection(
        headers=section.header, environment=section.env, meta=section.meta, tls=section.tls
    )


def issued_tokens(trust_domain: TrustDomain, issuer: str, leases: Leases) -> Tokens:
    """Return what a resource server may ask about the tokens that brokers had signed."""
    asked = [b.active for b in leases.brokers.values() if isinstance(b, JwtBroker)]
    return Tokens(
        issuer=issuer,
        verify=lambda token: trust_domain.verify(token, typ=TOKEN_TYP),
        active=lambda handle, asker: any(active(handle, asker) for active in asked),
        jwks=trust_domain.jwks,
    )


def _binding(
    named: str, section: CredentialSection, brokers: Mapping[str, Broker], *, ours: bool
) -> Binding:
    where = f"{named}, `credential.grant`"
    broker, scope = brokers[section.broker], LeaseScope(section.scope)
    check_grant(section.grant, scope, where)
    try:
        broker.check(section.grant)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if isinstance(broker, SenderBound):
        _require_shown(f"{named}, `credential`", section, broker)
    return Binding(
        name=section.broker,
        broker=broker,
        scope=scope,
        seconds=section.seconds,
        grant=section.grant,
        ours=ours,
    )


_PROOF = "{dpop}"
_GIVEN = {
    "none": frozenset({"token"}),
    "dpop": frozenset({"token"}),
    "mtls": frozenset({"token", "private_key", "certificate", "bundle"}),
}


def _require_shown(where: str, section: CredentialSection, broker: SenderBound) -> None:
    """Refuse a binding whose tokens are bound to a key that no request would show.

    Raises:
        ConfigError: that, or a template names what the broker does not give.
    """
    kind, bound = f"`[broker.{section.broker}]`", broker.bound
    proofs = [name for name, text in section.header.items() if text == _PROOF]
    if bound == "dpop" and [name.lower() for name in proofs] != ["dpop"]:
        raise ConfigError(
            f'{where}: the tokens of {kind} are bound to a key (`bound = "dpop"`): add '
            f'`DPoP = "{_PROOF}"` to `header`, which proves it; only a `url` takes proofs'
        )
    other = [*section.env.values(), *section.meta.values()]
    headers = [text for text in section.header.values() if bound != "dpop" or text != _PROOF]
    named = {
        name for text in (*headers, *other, section.tls or "") for name in REFERENCE.findall(text)
    }
    if unknown := sorted(named - _GIVEN[bound]):
        given = ", ".join(f"`{{{name}}}`" for name in sorted(_GIVEN[bound]))
        raise ConfigError(
            f"{where}: {kind} gives no `{{{unknown[0]}}}`: it gives {given} there "
            f'(`bound = "{bound}"`)'
        )
    if bound == "mtls" and not any(map(_whole, ([section.tls or ""], section.env.values()))):
        raise ConfigError(
            f'{where}: the tokens of {kind} are bound to a client certificate (`bound = "mtls"`), and '
            'nothing says where it goes: add `tls = "{bundle}"` for a `url` of https, or `{certificate}` '
            "and `{private_key}` to `env` for a `command`"
        )


def _whole(texts: Iterable[str]) -> bool:
    """Whether a place is given both the certificate and its key."""
    named = {name for text in texts for name in REFERENCE.findall(text)}
    return "bundle" in named or {"certificate", "private_key"} <= named
