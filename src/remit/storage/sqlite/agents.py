"""The agent registry's pages in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Column, Connection, LargeBinary, String, select

from remit.model.subject import Agent
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.seals import sealed_table

AGENTS = sealed_table(
    "agents",
    Column("name", String, primary_key=True),
    Column("spiffe_id", String, nullable=False, unique=True),
    Column("state", String, nullable=False),
    Column("document", LargeBinary, nullable=False),
)


class SqliteAgents:
    """Implements ``identity.ports.AgentStore``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def put(self, agent: Agent) -> None:
        """Stage an agent's present state. Its SPIFFE ID never changes."""
        row = {
            "name": agent.name,
            "spiffe_id": str(agent.spiffe_id),
            "state": agent.state.value,
            "document": msgspec.json.encode(agent),
        }
        self._journal.stage_row(AGENTS, row)

    async def list(self) -> Sequence[Agent]:
        """Return every agent, by name."""

        def query(connection: Connection) -> Sequence[bytes]:
            statement = select(AGENTS.c.document).order_by(AGENTS.c.name)
            return connection.execute(statement).scalars().all()

        return [
            msgspec.json.decode(document, type=Agent)
            for document in await self._journal.read(query)
        ]
