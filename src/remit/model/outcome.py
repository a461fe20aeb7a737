"""How a call ended. Exactly one of four, and the fourth is found, never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from remit.model.label import Label
from remit.model.record import Payload, Step


class Ending(StrEnum):
    """``unknown`` is written by recovery, where a crash hid the answer."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DENIED = "denied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A credential that an answer held and the agent did not get to see.

    ``rule`` says what kind, ``count`` how often. ``lease`` is set where it was one of Remit's own:
    it is revoked.
    """

    rule: str
    count: int = 1
    lease: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the act came to. ``result`` is the upstream's answer, kept in the vault."""

    ending: Ending
    target: str
    seconds: float = 0.0
    detail: str | None = None
    label: Label = field(default_factory=Label)
    result: bytes = field(default=b"", repr=False)
    leaks: tuple[Leak, ...] = ()

    def record(self) -> Step:
        """Return the outcome; the result goes to the vault."""
        return Step(
            kind=f"call.{self.ending.value}",
            body={
                "target": self.target,
                "milliseconds": round(self.seconds * 1000),
                "detail": self.detail,
                "leaks": [
                    {"rule": leak.rule, "count": leak.count, "lease": leak.lease}
                    for leak in self.leaks
                ],
                "label": {
                    "confidentiality": self.label.confidentiality.word,
                    "trusted": self.label.trusted,
                    "categories": sorted(self.label.categories),
                },
            },
            payloads=(Payload("result", self.result),) if self.result else (),
        )
