"""The catalogue's entries in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Column, Connection, LargeBinary, String, select

from remit.policy.catalogue import Entry
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.seals import sealed_table

CATALOGUE = sealed_table(
    "catalogue",
    Column("target", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("document", LargeBinary, nullable=False),
)


class SqliteCatalogue:
    """Implements ``policy.catalogue.CatalogueStore``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def put(self, entry: Entry) -> None:
        """Stage an entry's present state."""
        row = {
            "target": entry.tool.target,
            "state": entry.tool.state.value,
            "document": msgspec.json.encode(entry),
        }
        self._journal.stage_row(CATALOGUE, row)

    async def get(self, target: str) -> Entry | None:
        """Return one entry."""

        def query(connection: Connection) -> bytes | None:
            found = select(CATALOGUE.c.document).where(CATALOGUE.c.target == target)
            return connection.execute(found).scalar()

        document = await self._journal.read(query)
        return None if document is None else msgspec.json.decode(document, type=Entry)

    async def list(self) -> Sequence[Entry]:
        """Return every entry, by target."""

        def query(connection: Connection) -> Sequence[bytes]:
            found = select(CATALOGUE.c.document).order_by(CATALOGUE.c.target)
            return list(connection.execute(found).scalars())

        return [msgspec.json.decode(d, type=Entry) for d in await self._journal.read(query)]
