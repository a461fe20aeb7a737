"""What every exchange shares: the authority, the upstreams, and the books the gateway keeps."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from remit.gateway.handles import Handles
from remit.gateway.in_flight import InFlight
from remit.gateway.incoming import revoke, told
from remit.gateway.leaks import LeakGuard
from remit.gateway.options import GatewayOptions
from remit.gateway.relay import Pending
from remit.gateway.sessions import Sessions
from remit.gateway.sse import Clean
from remit.gateway.upstream import Holding, Upstream
from remit.model.call import Call
from remit.model.ids import new_id
from remit.model.outcome import Leak, Outcome
from remit.model.record import Context, Step
from remit.model.subject import Claim
from remit.model.task import Task, TaskState
from remit.spine import Act, Authority, Understand

log = structlog.get_logger()


class Perform(Protocol):
    """:func:`remit.spine.perform`, or a test's own."""

    def __call__(
        self,
        claim: Claim,
        call: Call,
        act: Act,
        authority: Authority,
        *,
        understand: Understand | None = None,
    ) -> Awaitable[Outcome]:
        """Carry one call from a claim to a settled lease."""
        ...


class CloseTask(Protocol):
    """:func:`remit.spine.close_task`, or a test's own."""

    def __call__(
        self, task_id: str, state: TaskState, by: str, authority: Authority
    ) -> Awaitable[Task]:
        """End a task."""
        ...


@dataclass(slots=True, kw_only=True)
class House:
    """The gateway's parts.

    ``schemas`` holds the argument schemas last listed, by target; ``beginning`` the tasks that are
    being begun, by workload: one at a time.
    """

    authority: Authority
    upstreams: Mapping[str, Upstream]
    options: GatewayOptions
    perform: Perform
    close_task: CloseTask
    sessions: Sessions
    guard: LeakGuard
    pending: Pending = field(default_factory=Pending)
    handles: Handles = field(default_factory=Handles)
    in_flight: InFlight = field(default_factory=InFlight)
    telling: set[asyncio.Task[None]] = field(default_factory=set)
    schemas: dict[str, Any] = field(default_factory=dict)
    beginning: dict[str, asyncio.Future[Task]] = field(default_factory=dict)
    randomness: Callable[[int], bytes] = secrets.token_bytes

    def watching(self, upstream: str) -> Clean:
        """Return what takes minted credentials out of what no decision was made about.

        What it finds is recorded, and its lease revoked, beside the stream that goes on.
        """

        def tell(leaks: tuple[Leak, ...]) -> None:
            task = asyncio.create_task(self._leaked(upstream, leaks))
            self.telling.add(task)
            task.add_done_callback(self.telling.discard)

        return self.guard.exact(tell)

    async def _leaked(self, upstream: str, leaks: tuple[Leak, ...]) -> None:
        log.warning("a credential was taken out of a message", upstream=upstream)
        step = Step(kind="leak.removed", body={"upstream": upstream, "leaks": told(leaks)})
        await revoke(step, leaks, self.authority, Context())

    async def let_go(self, lease: str) -> None:
        """End every use of a lease's credential: exchanges under way, and processes."""
        holding = [each for each in self.upstreams.values() if isinstance(each, Holding)]
        # At once: an exchange may hang in the process that it writes to, until that one ends.
        await asyncio.gather(
            self.in_flight.let_go(lease), *(upstream.let_go(lease) for upstream in holding)
        )

    def call_id(self) -> str:
        """Return a fresh id for a call."""
        return new_id("call", self.authority.clock(), self.randomness(10))
