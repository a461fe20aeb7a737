"""The configuration in the rooms' own words: what each is told of `remit.toml`."""

from __future__ import annotations

from remit.app.brokers import injection
from remit.app.config import Loaded, SqlSection, ToolSection
from remit.gateway.options import GatewayOptions, UpstreamOptions
from remit.gateway.sql.options import SqlOptions
from remit.identity.oidc import Issuer, Rule
from remit.model.label import Confidentiality
from remit.model.subject import Environment
from remit.policy import catalogue as cataloguing


def issuers(loaded: Loaded) -> list[Issuer]:
    """Return the issuers whose tokens are accepted."""
    return [
        Issuer(
            issuer=section.issuer,
            audience=section.audience,
            rules=tuple(
                Rule(claims=rule.claims, agent=rule.agent, person=rule.person, roles=rule.roles)
                for rule in section.rules
            ),
        )
        for section in loaded.config.issuers
    ]


def upstreams(loaded: Loaded) -> list[UpstreamOptions]:
    """Return the upstreams as the gateway takes them."""
    return [
        UpstreamOptions(
            name=name,
            url=section.url,
            command=section.command,
            sql=_sql(section.sql),
            env=section.env,
            cwd=loaded.path(section.cwd) if section.cwd else None,
            environment=Environment(section.environment),
            trusted=section.trusted,
            inject=injection(section.credential),
            answer_seconds=section.timeout_seconds,
        )
        for name, section in loaded.config.upstreams.items()
    ]


def _sql(section: SqlSection | None) -> SqlOptions | None:
    if section is None:
        return None
    return SqlOptions(
        tables=section.tables,
        default_schema=section.default_schema,
        max_rows=section.max_rows,
        max_bytes=section.max_bytes,
        statement_seconds=section.statement_seconds,
        connect_seconds=section.connect_seconds,
    )


def catalogued(loaded: Loaded) -> dict[str, cataloguing.UpstreamOptions]:
    """Return the upstreams as the catalogue takes them."""
    return {
        name: cataloguing.UpstreamOptions(
            environment=Environment(section.environment),
            trusted=section.trusted,
            accept_first=section.pin == "first-sight",
            tools={tool: _tool(options) for tool, options in section.tool.items()},
        )
        for name, section in loaded.config.upstreams.items()
    }


def _tool(section: ToolSection) -> cataloguing.ToolOptions:
    level = section.confidentiality
    return cataloguing.ToolOptions(
        environment=Environment(section.environment) if section.environment else None,
        side_effects=section.side_effects,
        confidentiality=Confidentiality.parse(level) if level else None,
        trusted=section.trusted,
        categories=section.categories,
        destinations=section.destinations,
    )


def gateway_options(loaded: Loaded) -> GatewayOptions:
    """Return how the gateway meets its clients."""
    authority = loaded.config.authority
    usual = GatewayOptions()
    hosts = (*usual.allowed_hosts, authority.listen, *authority.allowed_hosts)
    return GatewayOptions(
        audience=authority.audience,
        public_url=authority.url,
        allowed_hosts=hosts,
        allowed_origins=(*usual.allowed_origins, *authority.allowed_origins),
        authorization_servers=tuple(section.issuer for section in loaded.config.issuers),
        max_body_bytes=loaded.config.limits.body_bytes,
    )
