"""A lease: one credential's life, written down before the credential exists."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from remit.model.record import Step


class LeaseState(StrEnum):
    """``reserved`` comes before the mint; ``settled`` only after revocation was confirmed."""

    RESERVED = "reserved"
    ISSUED = "issued"
    SETTLING = "settling"
    SETTLED = "settled"
    FAILED = "failed"
    IRREVOCABLE = "irrevocable"
    UNKNOWN = "unknown"


class LeaseScope(StrEnum):
    """How long a lease lives: one call, or its whole task."""

    CALL = "call"
    TASK = "task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A row of the lease book. ``handle`` is a name of ours, enough to revoke without an answer."""

    id: str
    task: str
    call: str | None
    broker: str
    target: str
    scope: LeaseScope
    state: LeaseState
    handle: str
    expires_at: datetime
    reserved_at: datetime
    confirmed: bool | None = None
    revocation: str = "immediate"
    detail: str | None = None

    def moved(self, state: LeaseState, **changes: object) -> Lease:
        """Return this lease in another state."""
        return replace(self, state=state, **changes)  # type: ignore[arg-type]

    def record(self) -> Step:
        """Return the lease's present state; the handle is a name, not a secret."""
        return Step(
            kind=f"lease.{self.state.value}",
            body={
                "lease": self.id,
                "broker": self.broker,
                "target": self.target,
                "scope": self.scope.value,
                "handle": self.handle,
                "expires_at": self.expires_at.isoformat(),
                "revocation": self.revocation,
                "confirmed": self.confirmed,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a broker minted, for the gateway's hands only. Never recorded, logged or shown."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
