"""Who acts: SPIFFE IDs, agents, the claim a caller presents and the subject it proves to be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from remit.model.errors import InputError
from remit.model.record import Step

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+\Z")
_MAX_ID_BYTES = 2048


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE ID (SPIFFE-ID section 2): ``spiffe://trust-domain/path``; ``path`` starts with /."""

    trust_domain: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Parse a SPIFFE ID.

        Raises:
            InputError: the text breaks a rule of SPIFFE-ID section 2.
        """
        if len(text.encode()) > _MAX_ID_BYTES:
            raise InputError("a SPIFFE ID holds at most 2048 bytes")
        scheme, separator, rest = text.partition("://")
        if not separator or scheme != "spiffe":
            raise InputError(f"`{text}` is not a SPIFFE ID: it starts with spiffe://")
        domain, slash, path = rest.partition("/")
        if not _TRUST_DOMAIN.match(domain):
            raise InputError(f"`{text}` has no valid trust domain: lower-case a-z 0-9 . _ -")
        if slash:
            for segment in path.split("/"):
                if not _SEGMENT.match(segment) or segment in {".", ".."}:
                    raise InputError(f"`{text}` has an invalid path segment `{segment}`")
        return cls(domain, f"/{path}" if slash else "")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


class AgentState(StrEnum):
    """Where an agent stands in the registry."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    RETIRED = "retired"


class Environment(StrEnum):
    """Where an agent or a target lives."""

    DEV = "dev"
    STAGING = "staging"
    PROD = "prod"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One registered agent: who answers for it and how far it may go.

    ``autonomy`` runs from 0 (suggests only) to 4 (acts unattended). ``templates`` names the mandate
    templates it may open a task under; ``gateway_templates`` those it may open itself, with the
    gateway's own tools. ``max_depth`` is how many delegations below a root task it may act; 0 is for
    root tasks alone.
    """

    name: str
    spiffe_id: SpiffeId
    owner: str | None
    purpose: str
    environment: Environment
    autonomy: int = 1
    templates: tuple[str, ...] = ()
    gateway_templates: tuple[str, ...] = ()
    max_depth: int = 4
    state: AgentState = AgentState.ACTIVE
    registered_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Possession:
    """The ``DPoP`` headers of one request, not yet believed, and what they have to speak of.

    ``path`` is the request's own; the rest of its address is what the authority was told it has.
    """

    proofs: tuple[str, ...] = field(default=(), repr=False)
    method: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a caller presented, not yet believed. Never recorded, never logged.

    ``key`` is the thumbprint of the key that the sender was shown to hold: the word of the identity
    desk, which took ``possession`` for it once. ``as_dpop`` says that the token came under the
    scheme ``DPoP`` and not ``Bearer``.
    """

    bearer: str | None = field(default=None, repr=False)
    as_dpop: bool = False
    possession: Possession | None = None
    key: str | None = None
    certificate: bytes | None = field(default=None, repr=False)
    task_token: str | None = field(default=None, repr=False)
    session: str | None = field(default=None, repr=False)
    audience: str = "remit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The acting workload, proven, with the registry's word on it.

    ``method`` is how it was proven: ``jwt-svid``, ``x509-svid`` or ``oidc``. ``credential`` is the
    SHA-256 of the presented token or certificate (hex), so that evidence can tell two apart.
    ``key`` is the thumbprint of the key whose possession was shown with this request (RFC 9449),
    if any; ``bound`` says that the presented identity itself is good with that key only.
    """

    workload: SpiffeId
    agent: Agent
    method: str
    issuer: str
    credential: str
    expires_at: datetime
    key: str | None = None
    bound: bool = False

    def record(self) -> Step:
        """Return the identity that was asserted and proven, and whether by holding a key."""
        return Step(
            kind="call.identified",
            body={
                "workload": str(self.workload),
                "agent": self.agent.name,
                "owner": self.agent.owner,
                "environment": self.agent.environment.value,
                "method": self.method,
                "issuer": self.issuer,
                "credential": f"sha256:{self.credential}",
                "expires_at": self.expires_at.isoformat(),
                "proof": None if self.key is None else "dpop",
                "key": self.key,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who runs or approves: known by kernel credentials or a token of an issuer."""

    id: str
    method: str
    roles: tuple[str, ...] = ()
