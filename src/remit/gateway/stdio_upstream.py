"""An upstream that is a process."""

from __future__ import annotations
from remit.gateway.options import UpstreamOptions
from remit.gateway.upstream import Answer, Outgoing
from remit.model.errors import UpstreamError


class StdioUpstream:
    """An upstream that is a process."""

    def __init__(self, options: UpstreamOptions) -> None:
        self.options = options

    async def send(self, request: Outgoing) -> Answer:
        """Send."""
        raise UpstreamError("not yet")

    def health(self) -> str | None:
        """Health."""
        return None

    async def close(self) -> None:
        """Close."""
