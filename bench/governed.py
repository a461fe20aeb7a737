"""A governed MCP call against the direct call, in one run: raw bytes over one kept connection.

Both calls go to the same real helpdesk server over loopback HTTP. The governed one passes identity,
mandate, Cedar, three barriers and the log; the direct one passes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import uvloop

from remit.app import logs
from remit.app.config import load
from remit.app.examples import examples_folder
from remit.app.quickstart import free_port
from remit.app.serve import serving
from remit.model.subject import Environment
from remit.tasks.request import TaskRequest

VERSION = "2026-07-28"
TEMPLATE = """\
purpose = "Measure"
expires_seconds = 3600

[[capability]]
tool = "helpdesk/get_customer"
args = { id = { const = "88" } }
"""
CONFIG = """\
[authority]
state = "state"
listen = "127.0.0.1:{port}"
[upstream.helpdesk]
url = "http://127.0.0.1:{upstream}/mcp"
[policy]
templates = "templates"
"""
BODY = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "get_customer",
            "arguments": {"id": "88"},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": VERSION,
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
).encode()
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": VERSION,
    "Mcp-Method": "tools/call",
    "Mcp-Name": "get_customer",
}


async def timed(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], calls: int, at_once: int
) -> tuple[list[float], float]:
    """Make ``calls`` calls, ``at_once`` at a time; return each one's seconds, and the whole."""
    taken: list[float] = []
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            began = time.perf_counter()
            async with session.post(url, data=BODY, headers=headers) as answer:
                body = await answer.read()
            taken.append(time.perf_counter() - began)
            if answer.status != 200 or b'"isError":true' in body:
                raise SystemExit(f"a call failed: {answer.status} {body[:400]!r}")

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return taken, time.perf_counter() - began


async def measure(folder: Path, calls: int) -> dict[str, float]:
    """Run both, and return the figures."""
    upstream, port = free_port(), free_port()
    server = subprocess.Popen(
        [
            *(sys.executable, str(examples_folder() / "helpdesk" / "server.py"), "--http"),
            *("--port", str(upstream), "--database", str(folder / "helpdesk.sqlite3")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        (folder / "templates").mkdir()
        (folder / "templates" / "measure.toml").write_text(TEMPLATE)
        config = folder / "remit.toml"
        config.write_text(CONFIG.format(port=port, upstream=upstream))
        async with aiohttp.ClientSession() as session:
            direct_url = f"http://127.0.0.1:{upstream}/mcp"
            await _until_up(session, direct_url)
            async with serving(load(config)) as house:
                agent = await house.authority.registry.register(
                    "bench",
                    by="user:bench",
                    owner="user:bench",
                    purpose="Measure",
                    environment=Environment.DEV,
                    templates=("measure",),
                )
                opened = await house.authority.tasks.open(
                    TaskRequest(template="measure"), agent=agent, opened_by="user:bench"
                )
                svid = house.trust_domain.issue_jwt_svid(agent.spiffe_id, ["remit"], seconds=3000)
                governed = {
                    **HEADERS,
                    "Authorization": f"Bearer {svid}",
                    "Remit-Task": opened.token,
                }
                url = f"http://127.0.0.1:{port}/mcp/helpdesk"
                while house.authority.catalogue.find("helpdesk/get_customer") is None:
                    await asyncio.sleep(0.05)
                await timed(session, direct_url, HEADERS, calls // 4, 1)
                await timed(session, url, governed, calls // 4, 1)
                direct, _ = await timed(session, direct_url, HEADERS, calls, 1)
                ours, _ = await timed(session, url, governed, calls, 1)
                _, direct_many = await timed(session, direct_url, HEADERS, calls, 16)
                _, ours_many = await timed(session, url, governed, calls, 16)
    finally:
        server.terminate()
        server.wait()
    p50, p99 = statistics.median(ours), statistics.quantiles(ours, n=100)[98]
    return {
        "direct_p50_ms": statistics.median(direct) * 1000,
        "governed_p50_ms": p50 * 1000,
        "governed_p99_ms": p99 * 1000,
        "ratio_p50": p50 / statistics.median(direct),
        "direct_calls_per_second": calls / direct_many,
        "durable_decisions_per_second": calls / ours_many,
        "ratio_throughput": direct_many / ours_many,
    }


async def _until_up(session: aiohttp.ClientSession, url: str) -> None:
    for _ in range(200):
        try:
            async with session.post(url, data=BODY, headers=HEADERS):
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.05)
    raise SystemExit("the helpdesk did not come up")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=800)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    logs.set_up("error")
    with tempfile.TemporaryDirectory() as name:
        figures = uvloop.run(measure(Path(name), chosen.calls))
    if chosen.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:32} {value:10.2f}")


if __name__ == "__main__":
    main()
