"""What every exchange shares: the authority, the upstreams, and the books the gateway keeps."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from remit.gateway.handles import Handles
from remit.gateway.options import GatewayOptions
from remit.gateway.relay import Pending
from remit.gateway.sessions import Sessions
from remit.gateway.upstream import Upstream
from remit.model.call import Call
from remit.model.ids import new_id
from remit.model.outcome import Outcome
from remit.model.subject import Claim
from remit.model.task import Task, TaskState
from remit.spine import Act, Authority


class Perform(Protocol):
    """:func:`remit.spine.perform`, or a test's own."""

    def __call__(
        self, claim: Claim, call: Call, act: Act, authority: Authority
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
    pending: Pending = field(default_factory=Pending)
    handles: Handles = field(default_factory=Handles)
    schemas: dict[str, Any] = field(default_factory=dict)
    beginning: dict[str, asyncio.Future[Task]] = field(default_factory=dict)
    randomness: Callable[[int], bytes] = secrets.token_bytes

    def call_id(self) -> str:
        """Return a fresh id for a call."""
        return new_id("call", self.authority.clock(), self.randomness(10))
