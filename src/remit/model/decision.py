"""A decision, which explains itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from remit.model.errors import DeniedError
from remit.model.record import Json, Payload, Step


class Effect(StrEnum):
    """What policy answered."""

    PERMIT = "permit"
    DENY = "deny"
    APPROVAL_REQUIRED = "approval_required"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One policy that determined the decision, in words for people."""

    policy: str
    sentence: str
    remedy: str | None = None
    controls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """What the enforcement point must also do; one it does not know is a denial."""

    id: str
    properties: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What policy said of one call, and from what.

    ``facts`` is the exact text that was evaluated; it is kept in the vault, and only its digest in
    the record. ``approval_role`` is set with ``approval_required``.
    """

    id: str
    effect: Effect
    reasons: tuple[Reason, ...]
    errors: tuple[str, ...] = ()
    bundle_digest: str
    facts: bytes = field(repr=False)
    target: str
    action: str
    obligations: tuple[Obligation, ...] = ()
    approval_role: str | None = None

    def sentence(self) -> str:
        """Return why, in one lowercase line, naming the policies."""
        said = "; ".join(f"{r.sentence} (policy {r.policy})" for r in self.reasons)
        return said or "no policy permits this (deny by default)"

    def require_permit(self) -> None:
        """Raise unless this is a permit.

        Raises:
            DeniedError: the effect is anything else.
        """
        if self.effect is not Effect.PERMIT:
            raise DeniedError(self)

    def record(self) -> Step:
        """Return the decision; the facts go to the vault."""
        return Step(
            kind="call.decided",
            body={
                "decision": self.id,
                "effect": self.effect.value,
                "action": self.action,
                "target": self.target,
                "policies": [
                    {"id": r.policy, "reason": r.sentence, "controls": list(r.controls)}
                    for r in self.reasons
                ],
                "errors": list(self.errors),
                "bundle": self.bundle_digest,
                "obligations": [o.id for o in self.obligations],
            },
            payloads=(Payload("facts", self.facts),),
        )
