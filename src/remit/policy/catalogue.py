"""What tools there are, each pinned to the definition that somebody accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remit.model.catalogue import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What an upstream claims of one target: its exact JSON, and the hints in it."""

    name: str
    json_bytes: bytes
    hints: Mapping[str, Any] = field(default_factory=dict)


class Catalogue:
    """The catalogue of tools, resources and prompts behind the gateway."""

    async def load(self) -> None:
        """Read what was catalogued before."""
        raise NotImplementedError

    def find(self, target: str) -> Tool | None:
        """Return what is known of a target; None is unknown, which policy denies."""
        raise NotImplementedError

    def observe(
        self, upstream: str, kind: str, definitions: Sequence[Definition]
    ) -> Sequence[Tool]:
        """Take in what an upstream lists: pin what is new, mark what changed."""
        raise NotImplementedError

    async def accept(self, target: str, by: str) -> Tool:
        """Accept the definition that the upstream shows now."""
        raise NotImplementedError

    def list(self, upstream: str | None = None) -> Sequence[Tool]:
        """Return what is catalogued, by target."""
        raise NotImplementedError
