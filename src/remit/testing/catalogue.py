"""A catalogue store in memory."""

from __future__ import annotations

from collections.abc import Sequence

from remit.policy.catalogue import Entry


class MemoryCatalogue:
    """Implements ``policy.catalogue.CatalogueStore`` without a disk."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def put(self, entry: Entry) -> None:
        """Keep an entry's present state."""
        self._entries[entry.tool.target] = entry

    async def get(self, target: str) -> Entry | None:
        """Return one entry."""
        return self._entries.get(target)

    async def list(self) -> Sequence[Entry]:
        """Return every entry, by target."""
        return [self._entries[target] for target in sorted(self._entries)]
