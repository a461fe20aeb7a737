"""What the tasks room asks of others: a signer for mandates and tokens, and a place for tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from remit.model.record import Json
from remit.model.subject import Agent, SpiffeId
from remit.model.task import Task, TaskState

Clock = Callable[[], datetime]
"""Returns the present time, aware UTC."""


class Signer(Protocol):
    """Signs and verifies what the authority vouches for; ``TrustDomain`` implements it."""

    @property
    def name(self) -> str:
        """The trust domain's name; tokens are issued by ``spiffe://<name>``."""
        ...

    def sign(self, claims: Mapping[str, Json], *, typ: str) -> str:
        """Return a compact JWS over the claims, with ``typ`` in its protected header."""
        ...

    def verify(self, token: str, *, typ: str) -> Mapping[str, Json]:
        """Return the claims of a token that this authority signed with this ``typ``.

        Raises:
            UnidentifiedError: the token is malformed, foreign, or of another ``typ``.
        """
        ...


class Agents(Protocol):
    """Knows how the agents that delegate stand; the registry implements it."""

    def by_id(self, spiffe_id: SpiffeId, /) -> Agent | None:
        """Return the agent of this SPIFFE ID."""
        ...


class TaskStore(Protocol):
    """Where tasks outlive the process."""

    def put(self, task: Task) -> None:
        """Stage a task's present state; durable at the next barrier."""
        ...

    async def get(self, task_id: str) -> Task | None:
        """Return one task."""
        ...

    async def list(
        self,
        *,
        state: TaskState | None = None,
        agent: str | None = None,
        parent: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Sequence[Task]:
        """Return tasks, newest first; ``after`` is the last id of the page before.

        ``parent`` is the id of the task that they were delegated from.
        """
        ...
