"""Identity in memory, for tests: a store of agents and a trust domain in a throw-away folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from remit.identity.trust_domain import TrustDomain
from remit.model.subject import Agent


class MemoryAgents:
    """Implements ``identity.ports.AgentStore``."""

    def __init__(self, agents: Sequence[Agent] = ()) -> None:
        self.agents = {agent.name: agent for agent in agents}

    def put(self, agent: Agent) -> None:
        """Keep an agent's present state."""
        self.agents[agent.name] = agent

    async def list(self) -> Sequence[Agent]:
        """Return every agent, by name."""
        return [self.agents[name] for name in sorted(self.agents)]


def trust_domain(
    folder: Path, *, clock: Callable[[], datetime], name: str = "test.example"
) -> TrustDomain:
    """Return a real trust domain with its keys below ``folder``."""
    return TrustDomain.open(folder / "keys", name, clock=clock)
