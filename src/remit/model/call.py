"""A call: one requested action, with every argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CALL_TOOL = "call_tool"
READ_RESOURCE = "read_resource"
GET_PROMPT = "get_prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One requested action.

    ``upstream`` is the configured server, ``name`` the tool, prompt or resource URI. ``arguments``
    were parsed once, from ``body``, and ``body`` is what is forwarded. ``digest`` is the SHA-256 of
    the RFC 8785 form of ``{action, target, arguments}``: what an approval is bound to. It is not
    salted, so it never enters evidence.
    """

    id: str
    action: str
    upstream: str
    name: str
    arguments: Mapping[str, Any] = field(repr=False)
    digest: str = field(repr=False)
    trace: str | None = None

    @property
    def target(self) -> str:
        """``upstream/name``, as capabilities and the catalogue write it."""
        return f"{self.upstream}/{self.name}"
