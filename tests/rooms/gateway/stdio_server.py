"""A real MCP server over stdio, for the tests: it tells what it sees and does what it is told."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("stdio-for-tests", log_level="ERROR")


@server.tool()
async def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool()
async def about() -> dict[str, Any]:
    """Tell about the process."""
    return {"pid": os.getpid(), "env": dict(os.environ)}


@server.tool()
async def steps(ctx: Context, count: int, pause: float = 0.0) -> str:
    """Report progress, then answer."""
    for step in range(count):
        await ctx.report_progress(step + 1, count)
        await asyncio.sleep(pause)
    return "done"


@server.tool()
async def fail() -> str:
    """Fail."""
    raise ValueError("on purpose")


if __name__ == "__main__":
    server.run("stdio")
