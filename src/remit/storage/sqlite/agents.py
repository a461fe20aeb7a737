"""The agent registry's pages in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Column, Connection, LargeBinary, String, Table, select
from sqlalchemy.dialects.sqlite import insert

from remit.model.subject import Agent
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.metadata import METADATA

AGENTS = Table(
    "agents",
    METADATA,
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
        statement = insert(AGENTS).values(row)
        statement = statement.on_conflict_do_update(
            index_elements=["name"], set_={"state": row["state"], "document": row["document"]}
        )

        def write(connection: Connection) -> None:
            connection.execute(statement)

        self._journal.stage(write)

    async def list(self) -> Sequence[Agent]:
        """Return every agent, by name."""

        def query(connection: Connection) -> Sequence[bytes]:
            statement = select(AGENTS.c.document).order_by(AGENTS.c.name)
            return connection.execute(statement).scalars().all()

        return [
            msgspec.json.decode(document, type=Agent)
            for document in await self._journal.read(query)
        ]
