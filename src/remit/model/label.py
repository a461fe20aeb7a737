"""How sensitive data is, and how far it can be trusted. Labels only rise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Confidentiality(IntEnum):
    """Ordered: a higher one may not flow to a lower one."""

    PUBLIC = 0
    INTERNAL = 1
    CONFIDENTIAL = 2
    RESTRICTED = 3

    @classmethod
    def parse(cls, text: str) -> Confidentiality:
        """Return the level named ``text``, lower-case. Raises ``KeyError`` for any other."""
        return cls[text.upper()]

    @property
    def word(self) -> str:
        """The lower-case name, as configuration and records write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Label:
    """What a task has touched so far."""

    confidentiality: Confidentiality = Confidentiality.PUBLIC
    trusted: bool = True
    categories: frozenset[str] = frozenset()

    def join(self, other: Label) -> Label:
        """Return the least label at or above both."""
        return Label(
            max(self.confidentiality, other.confidentiality),
            self.trusted and other.trusted,
            self.categories | other.categories,
        )
