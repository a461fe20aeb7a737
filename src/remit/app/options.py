"""The configuration in the rooms' own words: what each is told of `remit.toml`."""

from __future__ import annotations

from dataclasses import replace

from remit.app.brokers import injection
from remit.app.config import Loaded
from remit.app.sections import ServiceSection, SqlSection, ToolSection, UpstreamSection
from remit.gateway.egress.openapi import read_operations
from remit.gateway.egress.operations import Operation, Operations
from remit.gateway.egress.service import Service
from remit.gateway.options import GatewayOptions, UpstreamOptions
from remit.gateway.sql.options import SqlOptions
from remit.identity.oidc import Issuer, Rule
from remit.model.errors import ConfigError
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
            ca_file=loaded.path(section.ca_file) if section.ca_file else None,
            environment=Environment(section.environment),
            trusted=section.trusted,
            inject=injection(section.credential),
            answer_seconds=section.timeout_seconds,
            max_processes=section.processes,
            max_processes_per_agent=section.processes_per_agent,
        )
        for name, section in loaded.config.upstreams.items()
    ]


def services(loaded: Loaded) -> dict[str, Service]:
    """Return the HTTP APIs as the gateway takes them.

    Raises:
        ConfigError: one makes no sense, or a file that it names cannot be used.
    """
    return {
        name: Service(
            name=name,
            url=section.url,
            operations=_operations(name, section, loaded),
            trusted=section.trusted,
            private=section.private,
            headers=section.headers,
            ca_file=loaded.path(section.ca_file) if section.ca_file else None,
            inject=injection(section.credential),
            answer_seconds=section.timeout_seconds,
        )
        for name, section in loaded.config.services.items()
    }


def _operations(name: str, section: ServiceSection, loaded: Loaded) -> Operations:
    try:
        found = list(
            read_operations(loaded.path(section.openapi), section.operations)
            if section.openapi is not None
            else ()
        )
        found += [
            Operation(
                name=each.name,
                method=each.method,
                path=each.path,
                query=each.query,
                body=each.body,
                media=each.media,
                description=each.description,
            )
            for each in section.operation
        ]
        operations = Operations(found)
    except ConfigError as error:
        raise ConfigError(f"service `{name}`: {error}") from error
    names = {each.name for each in found}
    if unknown := section.tool.keys() - names:
        raise ConfigError(f"service `{name}`: there is no operation `{min(unknown)}` to classify")
    return operations


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
    """Return the upstreams and services as the catalogue takes them."""
    return {
        name: cataloguing.UpstreamOptions(
            environment=Environment(section.environment),
            trusted=section.trusted,
            accept_first=section.pin == "first-sight",
            tools=_tools(section),
        )
        for name, section in loaded.config.upstreams.items()
    } | {
        # What a service may do is the operator's own word: there is nobody to pin.
        name: cataloguing.UpstreamOptions(
            environment=Environment(section.environment),
            trusted=section.trusted,
            tools={tool: _tool(options) for tool, options in section.tool.items()},
        )
        for name, section in loaded.config.services.items()
    }


def _tools(section: UpstreamSection) -> dict[str, cataloguing.ToolOptions]:
    tools = {tool: _tool(options) for tool, options in section.tool.items()}
    if section.sql is not None:
        # Ours, and it runs one SELECT of known functions in a transaction that may only read.
        query = tools.get("query", cataloguing.ToolOptions())
        if query.side_effects is None:
            tools["query"] = replace(query, side_effects=False)
    return tools


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
