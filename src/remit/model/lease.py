"""A lease: one credential's life, written down before the credential exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from remit.model.record import Step


class LeaseState(StrEnum):
    """Where a lease is in its life.

    ``reserved``: written down, nothing minted yet as far as we know. ``issued``: in use.
    ``settling``: being taken back, or running out where the target can only expire. ``settled``:
    over. ``failed``: over, and its mint never succeeded. ``irrevocable``: the target would not take
    it back however often it was asked; it is asked still, and shown. ``unknown``: whether something
    was minted cannot be found out until it has expired.
    """

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
class FailedRevocation:
    """The last revocation that failed: how many did, and when the target is asked next.

    ``again_at`` is None where it is over, and after a start, which asks at once.
    """

    at: datetime
    attempts: int
    reason: str
    again_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A row of the lease book, written before anything is minted.

    ``handle`` is a name of ours, enough to revoke without the mint's answer where the target lets
    us choose names. ``memo`` is the target's own name for the credential (public), ``sealed`` what
    a revocation needs and nobody may read, encrypted under a key of the authority's.
    ``revoke_failed`` is for people: no record holds it.
    """

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
    memo: str | None = None
    sealed: bytes | None = field(default=None, repr=False)
    issued_at: datetime | None = None
    uses: int = 0
    revoke_failed: FailedRevocation | None = None

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
                "memo": self.memo,
                "detail": self.detail,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a broker minted, for the gateway's hands only. Never recorded, logged or shown.

    ``values`` are named as the broker's page says (``token``, ``username``, ``password``, …); the
    upstream's configuration says where each goes. ``secrets`` are those that must never be seen
    again: the leak guard looks for exactly these. ``memo`` and ``keep`` are what a revocation will
    need of the answer: ``memo`` may be seen by anyone, ``keep`` is sealed. ``expires_at`` is the
    target's own word, where it gave one. ``prove`` makes the value of a ``DPoP`` header for one
    request (method, address, token: RFC 9449 section 4), where the token is bound to a key.
    ``lease`` is the id of its lease, which the lease book fills in.
    """

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    memo: str | None = None
    keep: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    prove: Callable[[str, str, str | None], str] | None = field(default=None, repr=False)
    lease: str = ""
