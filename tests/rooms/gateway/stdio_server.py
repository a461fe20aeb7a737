"""A real MCP server over stdio, for the tests: it tells what it sees and does what it is told."""

from __future__ import annotations

import asyncio
import os
import sys
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
    return {"pid": os.getpid(), "env": dict(os.environ), "cwd": os.getcwd()}


@server.tool()
async def steps(ctx: Context, count: int, pause: float = 0.0) -> str:
    """Report progress, then answer."""
    for step in range(count):
        await ctx.report_progress(step + 1, count)
        await asyncio.sleep(pause)
    return "done"


@server.tool()
async def wait_for(path: str) -> str:
    """Wait until cancelled, and then say so in a file."""
    try:
        await asyncio.sleep(60)
    finally:
        with open(path, "w") as out:
            out.write("cancelled")
    return "slept"


@server.tool()
async def die() -> str:
    """End at once."""
    print("dying on purpose", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
async def fail() -> str:
    """Fail."""
    raise ValueError("on purpose")


if __name__ == "__main__":
    server.run("stdio")
