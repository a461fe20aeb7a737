"""Authority: templates that bound it, mandates that carry it, capabilities that spell it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from remit.model.label import Confidentiality
from remit.model.subject import Environment, SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One kind of action a task may take.

    ``target`` is ``upstream/name``; ``action`` is ``call_tool``, ``read_resource`` or
    ``get_prompt``. The last part of a resource's target may end in ``*``, which stands for any
    rest. ``args`` maps an argument to a JSON Schema (2020-12); an argument without a schema is
    refused unless ``other_args`` is true. ``approval`` names the role that must approve each call.
    """

    target: str
    action: str = "call_tool"
    args: Mapping[str, Any] = field(default_factory=dict)
    other_args: bool = False
    approval: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AmountLimit:
    """A named amount that calls add up to: ``limit`` of what ``argument`` of ``target`` says."""

    name: str
    limit: Decimal
    target: str
    argument: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a task may use up. ``seconds`` is time spent in calls, not wall time."""

    calls: int | None = None
    seconds: float | None = None
    amounts: tuple[AmountLimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a task has used up so far; amounts by name."""

    calls: int = 0
    seconds: float = 0.0
    amounts: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """An administrator's upper bound on mandates; versioned with the policy bundle.

    ``environments`` are the target environments a task under it may touch.
    """

    name: str
    purpose: str
    capabilities: tuple[Capability, ...]
    environments: tuple[Environment, ...] = (Environment.DEV,)
    data_ceiling: Confidentiality = Confidentiality.INTERNAL
    egress: tuple[str, ...] = ()
    expires_seconds: int = 1800
    budget: Budget = field(default_factory=Budget)
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What a delegated task's authority was taken from.

    ``task`` is the parent task's id, ``mandate`` its mandate's digest (``sha256:<hex>``), and
    ``workload`` the delegator, whose task it is. The digest commits to the parent's own ``Parent``,
    and so to the whole chain.
    """

    task: str
    mandate: str
    workload: SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """Signed, bounded authority for one task.

    ``prompt`` is the salted digest of the prompt (``sha256:<hex>``), or None where there was none.
    ``id`` is the task's id, ``agent`` the registered name of its workload. A call must satisfy the
    mandate *and* the template it was opened under, and where ``parent`` is set, those of every task
    above it as well.
    """

    id: str
    purpose: str
    prompt: str | None
    template: str
    template_digest: str
    workload: SpiffeId
    on_behalf_of: str
    opened_by: str
    capabilities: tuple[Capability, ...]
    environments: tuple[Environment, ...]
    data_ceiling: Confidentiality
    egress: tuple[str, ...]
    budget: Budget
    issued_at: datetime
    expires_at: datetime
    parent: Parent | None = None
    agent: str = ""
