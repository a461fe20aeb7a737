"""The tables of `remit.toml`, as types: what is not here is an error there.

Every field has a default that is safe on one machine; what goes wrong otherwise stands beside the
field in ``TEMPLATE`` (app/template.py).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

DEFAULT_STATE = ".remit"


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class Tls(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificate chain and key, PEM."""

    cert: str
    key: str


class AuthoritySection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The authority itself."""

    state: str = DEFAULT_STATE
    trust_domain: str = "remit.local"
    listen: str = "127.0.0.1:7480"
    url: str | None = None
    audience: str = "remit"
    proof_of_possession: Literal["when_bound", "required"] = "when_bound"
    allow_remote: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    tls: Tls | None = None


class IssuerRule(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens whose claims all match become this agent, or this person with these roles."""

    claims: dict[str, str]
    agent: str | None = None
    person: str | None = None
    roles: tuple[str, ...] = ()


class IssuerSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An OpenID Connect issuer whose tokens are accepted."""

    issuer: str
    audience: str
    rules: tuple[IssuerRule, ...] = msgspec.field(name="rule", default=())


class FederateSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another trust domain, by the file or the https address of its bundle."""

    trust_domain: str
    bundle: str


class WorkloadSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Processes that are an agent because the kernel says all of these selectors of them."""

    agent: str
    selectors: tuple[str, ...]


class ToolSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operator's own word on a tool, over what its upstream claims."""

    environment: Literal["dev", "staging", "prod"] | None = None
    side_effects: bool | None = None
    confidentiality: Literal["public", "internal", "confidential", "restricted"] | None = None
    trusted: bool | None = None
    categories: tuple[str, ...] | None = None
    destinations: tuple[str, ...] | None = None


class CredentialSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an upstream's calls get a credential, and where it goes."""

    broker: str
    scope: Literal["call", "task"] = "call"
    seconds: int = 300
    grant: dict[str, Any] = {}
    header: dict[str, str] = {}
    env: dict[str, str] = {}
    meta: dict[str, str] = {}
    tls: str | None = None


class SqlSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A database that the gateway itself serves: its tables, each with its columns."""

    tables: dict[str, tuple[str, ...]]
    default_schema: str = "public"
    max_rows: int = 1_000
    max_bytes: int = 1_048_576
    statement_seconds: float = 30.0
    connect_seconds: float = 5.0


class UpstreamSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One MCP server behind the gateway."""

    command: tuple[str, ...] = ()
    url: str | None = None
    sql: SqlSection | None = None
    environment: Literal["dev", "staging", "prod"] = "dev"
    env: dict[str, str] = {}
    cwd: str | None = None
    ca_file: str | None = None
    trusted: bool = False
    timeout_seconds: float = 60.0
    processes: int = 32
    processes_per_agent: int = 8
    pin: Literal["first-sight", "accepted"] = "first-sight"
    tool: dict[str, ToolSection] = {}
    credential: CredentialSection | None = None


class OperationSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request of an HTTP API that may be made."""

    name: str
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    query: tuple[str, ...] = ()
    body: Literal["none", "json", "value"] = "none"
    media: str = "application/json"
    description: str = ""


class ServiceSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One HTTP API behind the gateway."""

    url: str
    environment: Literal["dev", "staging", "prod"] = "dev"
    trusted: bool = False
    private: bool = False
    ca_file: str | None = None
    headers: dict[str, str] = {}
    timeout_seconds: float = 60.0
    openapi: str | None = None
    operations: tuple[str, ...] = ()
    operation: tuple[OperationSection, ...] = ()
    tool: dict[str, ToolSection] = {}
    credential: CredentialSection | None = None


class LeaksSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is taken out of messages beside the credentials that Remit minted."""

    rules: bool = False


class KeysSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a key of Remit's own lies, as a URI; in a file of the state folder where there is none."""

    log: str | None = None


class PolicySection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the bundle lies; the default bundle where nothing is named."""

    bundle: str | None = None
    templates: str | None = None


class ApprovalsSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a person's yes is asked for."""

    self_approval: bool = False
    expires_seconds: int = 900


class DelegationSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a task may be passed on."""

    depth: int = 4
    tasks: int = 32


class LimitsSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each step may take, and how much may wait."""

    identify_seconds: float = 10.0
    decide_seconds: float = 2.0
    issue_seconds: float = 15.0
    settle_seconds: float = 30.0
    durable_seconds: float = 10.0
    publish_grace_seconds: float = 30.0
    body_bytes: int = 4 * 1024 * 1024
    connections: int = 512


class LeasesSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a target is waited for."""

    revoke_seconds: float = 10.0
    quarantine_seconds: float = 30.0


class Config(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    authority: AuthoritySection = AuthoritySection()
    issuers: tuple[IssuerSection, ...] = msgspec.field(name="issuer", default=())
    federates: tuple[FederateSection, ...] = msgspec.field(name="federate", default=())
    workloads: tuple[WorkloadSection, ...] = msgspec.field(name="workload", default=())
    upstreams: dict[str, UpstreamSection] = msgspec.field(name="upstream", default_factory=dict)
    services: dict[str, ServiceSection] = msgspec.field(name="service", default_factory=dict)
    brokers: dict[str, dict[str, Any]] = msgspec.field(name="broker", default_factory=dict)
    keys: KeysSection = KeysSection()
    policy: PolicySection = PolicySection()
    approvals: ApprovalsSection = ApprovalsSection()
    delegation: DelegationSection = DelegationSection()
    leaks: LeaksSection = LeaksSection()
    leases: LeasesSection = LeasesSection()
    limits: LimitsSection = LimitsSection()
