"""`remit up` on a state folder that another authority holds: it takes nothing away from that one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import standing

from remit.app.compose import compose
from remit.app.config import load
from remit.cli.common import Exit
from remit.identity.workload_api import book_file
from remit.identity.workload_api.proc import process

SECONDS = 60


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for the end of its input."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
        yield running


async def test_agents_of_an_authority_that_runs_are_not_forgotten(
    tmp_path: Path, child: subprocess.Popen[bytes]
):
    async with standing(tmp_path) as world:
        found = process(child.pid)
        assert found is not None
        book = world.house.processes
        book.register("helper", child.pid, found.start_time, by_uid=0, by_pid=1, reaper=1)
        config = tmp_path / "remit.toml"
        up = [sys.executable, "-m", "remit.cli.main", "up", "--config", str(config)]
        second = await asyncio.to_thread(
            subprocess.run,
            [*up, "--forget-agents"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert second.returncode == Exit.CONFIG
        assert "is in use by process" in second.stderr
        assert "stop that one first" in second.stderr
        assert "Traceback" not in second.stderr
    assert (tmp_path / "s" / book_file.FILE).is_file()
    for forget, known in ((False, "helper"), (True, None)):
        house = await compose(load(config), forget_agents=forget)
        assert house.processes.resolve(child.pid) == known
        await house.close()
