"""Tasks in memory, and a signer for them, for tests of what stands on the task desk."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping, Sequence

from remit.model.errors import UnidentifiedError
from remit.model.record import Json
from remit.model.subject import Agent, SpiffeId
from remit.model.task import Task, TaskState


class MemoryTasks:
    """Implements ``tasks.ports.TaskStore`` without a disk."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}

    def put(self, task: Task) -> None:
        """Keep a task's present state."""
        self._tasks[task.id] = task

    async def get(self, task_id: str) -> Task | None:
        """Return one task."""
        return self._tasks.get(task_id)

    async def list(
        self,
        *,
        state: TaskState | None = None,
        agent: str | None = None,
        parent: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Sequence[Task]:
        """Return tasks, newest first."""
        found = [
            task
            for _, task in sorted(self._tasks.items(), reverse=True)
            if (state is None or task.state is state)
            and (agent is None or task.mandate.agent == agent)
            and (parent is None or (task.mandate.parent and task.mandate.parent.task == parent))
            and (after is None or task.id < after)
        ]
        return found[:limit]


class MemoryAgents:
    """Implements ``tasks.ports.Agents`` with what it was given."""

    def __init__(self, *agents: Agent) -> None:
        self._agents = {agent.spiffe_id: agent for agent in agents}

    def put(self, agent: Agent) -> None:
        """Register an agent, or change it."""
        self._agents[agent.spiffe_id] = agent

    def by_id(self, spiffe_id: SpiffeId) -> Agent | None:
        """Return the agent of this SPIFFE ID."""
        return self._agents.get(spiffe_id)


class MemorySigner:
    """Implements ``tasks.ports.Signer`` with a key in memory; what it signs looks like a JWS."""

    def __init__(self, name: str = "test.example", key: bytes = b"a key for tests") -> None:
        self.name = name
        self._key = key

    def sign(self, claims: Mapping[str, Json], *, typ: str) -> str:
        """Return the claims with their MAC."""
        head = _part(json.dumps({"alg": "HS256", "typ": typ}).encode())
        body = f"{head}.{_part(json.dumps(claims).encode())}"
        return f"{body}.{_part(self._mac(body))}"

    def verify(self, token: str, *, typ: str) -> Mapping[str, Json]:
        """Return the claims of a token signed here with this ``typ``.

        Raises:
            UnidentifiedError: it was not.
        """
        body, _, mac = token.rpartition(".")
        head, _, payload = body.partition(".")
        if not hmac.compare_digest(mac.encode(), _part(self._mac(body)).encode()):
            raise UnidentifiedError("the token was not signed by this authority")
        if json.loads(_unpart(head))["typ"] != typ:
            raise UnidentifiedError(f"the token is not a `{typ}`")
        claims: Mapping[str, Json] = json.loads(_unpart(payload))
        return claims

    def _mac(self, body: str) -> bytes:
        return hmac.digest(self._key, body.encode(), "sha256")


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unpart(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
