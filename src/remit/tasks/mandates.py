"""Mandates: what a request leaves of a template, signed, and read back.

A mandate only narrows. Numbers are the lower of the two, lists the common part, and a capability
that the template does not name is refused when the task is opened. Argument schemas are not
compared: a call has to satisfy the mandate's *and* the template's, each time it is made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import unquote

from remit.model.errors import InputError, ProofError
from remit.model.label import Confidentiality
from remit.model.mandate import AmountLimit, Budget, Capability, Mandate, Parent, Template
from remit.model.record import Json
from remit.model.subject import Agent, Environment, SpiffeId
from remit.tasks.request import TaskRequest

T = TypeVar("T")

MANDATE_TYP = "remit-mandate+jwt"
MAX_MANDATE_BYTES = 32_768
_DOT_SEGMENT = re.compile(r"(^|[/\\])\.{1,2}([/\\?#;]|$)")
_UNQUOTE_ROUNDS = 5


def narrowed(
    template: Template,
    request: TaskRequest,
    *,
    task_id: str,
    agent: Agent,
    on_behalf_of: str,
    opened_by: str,
    prompt: str | None,
    now: datetime,
) -> Mandate:
    """Return the mandate that ``request`` asks for, inside ``template``.

    Raises:
        InputError: the request asks for what the template does not have.
    """
    seconds = min(template.expires_seconds, request.expires_seconds or template.expires_seconds)
    ceiling = template.data_ceiling
    if request.data_ceiling is not None:
        ceiling = min(ceiling, request.data_ceiling)
    # Whole seconds, as a JWT writes them.
    issued_at = now.replace(microsecond=0)
    return Mandate(
        id=task_id,
        purpose=request.purpose or template.purpose,
        prompt=prompt,
        template=template.name,
        template_digest=template.digest,
        workload=agent.spiffe_id,
        agent=agent.name,
        on_behalf_of=on_behalf_of,
        opened_by=opened_by,
        capabilities=_capabilities(template, request),
        environments=_common("environments", template.environments, request.environments),
        data_ceiling=ceiling,
        egress=_common("egress", template.egress, request.egress),
        budget=_budget(template.budget, request),
        issued_at=issued_at,
        expires_at=issued_at + timedelta(seconds=seconds),
    )


def digest_of(signed: str) -> str:
    """Return the digest that names a signed mandate: SHA-256 of its compact JWS."""
    return f"sha256:{hashlib.sha256(signed.encode()).hexdigest()}"


def to_claims(mandate: Mandate, issuer: str) -> dict[str, Json]:
    """Return the claims of a mandate's JWS; amounts and seconds are strings."""
    budget = mandate.budget
    return {
        "iss": issuer,
        "sub": str(mandate.workload),
        "jti": mandate.id,
        "iat": int(mandate.issued_at.timestamp()),
        "exp": int(mandate.expires_at.timestamp()),
        "agent": mandate.agent,
        "purpose": mandate.purpose,
        "prompt": mandate.prompt,
        "template": mandate.template,
        "template_digest": mandate.template_digest,
        "on_behalf_of": mandate.on_behalf_of,
        "opened_by": mandate.opened_by,
        "capabilities": [
            {
                "target": c.target,
                "action": c.action,
                "args": dict(c.args),
                "other_args": c.other_args,
                "approval": c.approval,
            }
            for c in mandate.capabilities
        ],
        "environments": [each.value for each in mandate.environments],
        "data_ceiling": mandate.data_ceiling.word,
        "egress": list(mandate.egress),
        "budget": {
            "calls": budget.calls,
            "seconds": None if budget.seconds is None else str(budget.seconds),
            "amounts": [
                {
                    "name": a.name,
                    "limit": str(a.limit),
                    "target": a.target,
                    "argument": a.argument,
                }
                for a in budget.amounts
            ],
        },
        "parent": None
        if mandate.parent is None
        else {
            "task": mandate.parent.task,
            "mandate": mandate.parent.mandate,
            "workload": str(mandate.parent.workload),
        },
    }


def from_claims(claims: Mapping[str, Any]) -> Mandate:
    """Read a mandate back from its claims.

    Raises:
        ProofError: a claim is missing or is not what a mandate holds.
    """
    try:
        budget = claims["budget"]
        return Mandate(
            id=claims["jti"],
            purpose=claims["purpose"],
            prompt=claims["prompt"],
            template=claims["template"],
            template_digest=claims["template_digest"],
            workload=SpiffeId.parse(claims["sub"]),
            agent=claims["agent"],
            on_behalf_of=claims["on_behalf_of"],
            opened_by=claims["opened_by"],
            capabilities=tuple(Capability(**each) for each in claims["capabilities"]),
            environments=tuple(Environment(each) for each in claims["environments"]),
            data_ceiling=Confidentiality.parse(claims["data_ceiling"]),
            egress=tuple(claims["egress"]),
            budget=Budget(
                calls=budget["calls"],
                seconds=None if budget["seconds"] is None else float(budget["seconds"]),
                amounts=tuple(
                    AmountLimit(**{**each, "limit": Decimal(each["limit"])})
                    for each in budget["amounts"]
                ),
            ),
            issued_at=datetime.fromtimestamp(claims["iat"], UTC),
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            parent=_parent(claims["parent"]),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, InputError) as error:
        raise ProofError("the claims are not those of a mandate") from error


def _parent(claim: Any) -> Parent | None:
    if claim is None:
        return None
    return Parent(**{**claim, "workload": SpiffeId.parse(claim["workload"])})


def claims_of(signed: str) -> Mapping[str, Any]:
    """Return a JWS's claims without checking its signature: for what we stored ourselves.

    Raises:
        ProofError: it is no compact JWS.
    """
    try:
        payload = signed.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError) as error:
        raise ProofError("the mandate is not a compact JWS") from error
    if not isinstance(claims, dict):
        raise ProofError("the mandate holds no claims")
    return claims


def _capabilities(template: Template, request: TaskRequest) -> tuple[Capability, ...]:
    if request.capabilities is None:
        return template.capabilities
    for asked in request.capabilities:
        within = [c for c in template.capabilities if covers(c, asked.action, asked.target)]
        if not within:
            raise InputError(
                f"template `{template.name}` does not allow `{asked.target}`: "
                "a task can only narrow its template"
            )
        roles = {c.approval for c in within if c.approval}
        if asked.approval and roles and asked.approval not in roles:
            raise InputError(
                f"template `{template.name}` wants `{asked.target}` approved by another role "
                f"than `{asked.approval}`"
            )
    return request.capabilities


def covers(capability: Capability, action: str, target: str) -> bool:
    """Return whether a capability is about this action on this target.

    A pattern reaches no further than it reads: a target that climbs (dot segments, escaped ones
    too, backslashes) does not match, for the upstream would resolve it to somewhere else.
    """
    if capability.action != action:
        return False
    if capability.target == target:
        return True
    prefix, star, _ = capability.target.partition("*")
    return bool(star) and target.startswith(prefix) and not _climbs(target)


def _climbs(target: str) -> bool:
    for _ in range(_UNQUOTE_ROUNDS):
        if _DOT_SEGMENT.search(target) or "\\" in target:
            return True
        decoded = unquote(target)
        if decoded == target:
            return False
        target = decoded
    return True


def _common(name: str, allowed: Sequence[T], asked: Sequence[T] | None) -> tuple[T, ...]:
    if asked is None:
        return tuple(allowed)
    for each in asked:
        if each not in allowed:
            raise InputError(f"the template's `{name}` do not hold `{each}`")
    return tuple(asked)


def _budget(bound: Budget, request: TaskRequest) -> Budget:
    asked = request.budget
    named = {limit.name for limit in bound.amounts}
    for name in request.amount_limits:
        if name not in named:
            raise InputError(f"the template counts no amount `{name}`: say what it counts")
    for limit in asked.amounts:
        if limit.name in named:
            raise InputError(f"the template counts `{limit.name}` already: give a number for it")
    lowered = tuple(
        replace(limit, limit=min(limit.limit, request.amount_limits.get(limit.name, limit.limit)))
        for limit in bound.amounts
    )
    return Budget(
        calls=_lower(bound.calls, asked.calls),
        seconds=_lower(bound.seconds, asked.seconds),
        amounts=(*lowered, *asked.amounts),
    )


def _lower(first: T | None, second: T | None) -> T | None:
    given = [each for each in (first, second) if each is not None]
    return min(given) if given else None  # type: ignore[type-var]
