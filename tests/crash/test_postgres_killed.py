"""kill -9 of a process that leases a real PostgreSQL: after a sweep the server has no role of ours.

``REMIT_CRASH_POINTS`` says at how many random points; 500 is what a release is measured with.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Server, postgres_server
from postgres_crm import INSTALLATION, Seat, lay, options
from postgres_leases import open_desk

POINTS = int(os.environ.get("REMIT_CRASH_POINTS", "40"))
QUARANTINE_SECONDS = 0.3
SUPPORT = Path(__file__).resolve().parents[1] / "support"

pytestmark = [pytest.mark.crash, pytest.mark.real, pytest.mark.timeout(60 + 4 * POINTS)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server(fsync=True) as running:
        lay(running)
        yield running


async def swept(folder: Path, given: dict[str, object]) -> Counter[str]:
    """Start again, sweep until the book is empty, and return the states that were left open."""
    desk = await open_desk(folder, given, QUARANTINE_SECONDS)
    try:
        left = Counter(lease.state.value for lease in desk.leases.open_leases())
        async with asyncio.timeout(30):
            while await desk.leases.sweep(lambda _task: False):  # noqa: ASYNC110 - back-off and quarantine are times
                await asyncio.sleep(0.05)
        assert (await desk.broker.census([])).alive == frozenset()
        return left
    finally:
        await desk.close()


async def test_killed_at_random_points_the_server_keeps_no_role_after_the_sweep(
    server: Server, tmp_path: Path
):
    seat = Seat(server)
    given = options(server, tmp_path)
    draw = random.Random(POINTS)
    before: Counter[str] = Counter()
    standing = 0
    starter = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SUPPORT / "postgres_leases.py"),
        str(tmp_path),
        json.dumps(given),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
    )
    assert starter.stdin is not None
    assert starter.stdout is not None
    try:
        for point in range(POINTS):
            starter.stdin.write(f"{point * 100_000}\n".encode())
            pid = await _said(starter.stdout)
            assert pid.isdigit(), pid
            await asyncio.sleep(draw.uniform(0, 0.12))
            os.kill(int(pid), signal.SIGKILL)
            assert await _said(starter.stdout) == "dead"
            standing += bool(await asyncio.to_thread(seat.roles))
            before += await swept(tmp_path, given)
            assert await asyncio.to_thread(seat.roles) == set(), point
    finally:
        starter.stdin.close()
        await starter.wait()
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE starts_with(usename, %s)"
    assert seat.ask(sessions, INSTALLATION) == [(0,)]
    assert standing, "no kill ever left a role behind: nothing was shown"
    assert len(before) > 1, f"every kill fell into one state: {before}"


async def _said(stdout: asyncio.StreamReader) -> str:
    """Return the next line that is not the log's."""
    while said := (await stdout.readline()).decode():
        line = said.strip()
        if line == "dead" or line.isdigit():
            return line
    raise AssertionError("the process that is to be killed never began")
