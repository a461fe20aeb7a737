"""What identity asks of storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from remit.model.subject import Agent


class AgentStore(Protocol):
    """Where registered agents are kept. The registry itself lives in memory."""

    def put(self, agent: Agent) -> None:
        """Stage an agent's present state, by its name; durable at the next barrier."""
        ...

    async def list(self) -> Sequence[Agent]:
        """Return every agent, retired ones too, by name."""
        ...
