"""A real authority, a real `remit run`, and an agent that kills its supervisor to become the owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from orphans import HOSTILE
from processes import free_port, remit

from remit.app.config import load
from remit.app.serve import serving
from remit.cli.client import ControlClient
from remit.proof.encoding import decode_record

SECONDS = 30


def begin(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(remit(*arguments), start_new_session=True)


async def test_an_agent_that_kills_its_supervisor_is_not_the_owner_and_that_is_in_the_log(
    tmp_path: Path,
):
    config = tmp_path / "remit.toml"
    config.write_text(f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{free_port()}"\n')
    answer = tmp_path / "answer"
    loaded = load(config)
    async with serving(loaded) as house:
        client = ControlClient(loaded.control_socket)
        await asyncio.to_thread(
            client.post, "agents", body={"name": "reader", "owner": "user:ada", "templates": []}
        )
        hostile = [sys.executable, "-c", HOSTILE, loaded.control_socket, answer, "daemon"]
        popen = begin("run", "--config", config, "--agent", "reader", "--", *hostile)
        pid = 0
        try:
            async with asyncio.timeout(SECONDS):
                while not answer.exists():
                    assert popen.poll() in {None, -signal.SIGKILL}
                    await asyncio.sleep(0.05)
            first, _, said = answer.read_text().partition("\n")
            pid = int(first)
            assert " 401 " in said.splitlines()[0]
            assert "agent `reader` may not use the control socket" in said
            # We are older than the agent, and still the owner.
            assert await asyncio.to_thread(client.get, "agents")
            ledger = house.authority.evidence
            await ledger.barrier()
            await ledger.publisher.publish()
            records = [decode_record(d) for d in await ledger.log.entries(0, ledger.log.size)]
            left = {record.kind: record.body for record in records}
            assert left["agent.supervisor_lost"]["agent"] == "reader"
            assert left["agent.control_refused"] == {"agent": "reader", "pid": pid}
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)
            popen.kill()
            popen.wait()


WAIT = """
import os, socket, sys, time
path, answer, go = sys.argv[1:]
open(answer + ".up", "w").close()
while not os.path.exists(go):
    time.sleep(0.02)
with socket.socket(socket.AF_UNIX) as s:
    s.connect(path)
    s.sendall(b"GET /agents HTTP/1.0\\r\\nhost: x\\r\\n\\r\\n")
    said = b""
    while more := s.recv(65536):
        said += more
with open(answer + ".tmp", "wb") as file:
    file.write(said)
os.rename(answer + ".tmp", answer)
"""


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not there():  # noqa: ASYNC110 - another process makes it so
            await asyncio.sleep(0.02)


async def test_an_agent_that_outlives_the_authority_is_an_agent_to_the_next(tmp_path: Path):
    config = tmp_path / "remit.toml"
    config.write_text(f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{free_port()}"\n')
    answer, go = tmp_path / "answer", tmp_path / "go"
    loaded = load(config)
    async with serving(loaded):
        client = ControlClient(loaded.control_socket)
        await asyncio.to_thread(
            client.post, "agents", body={"name": "reader", "owner": "user:ada", "templates": []}
        )
        agent = [sys.executable, "-c", WAIT, loaded.control_socket, answer, go]
        popen = begin("run", "--config", config, "--agent", "reader", "--", *agent)
        await until((tmp_path / "answer.up").exists)
    try:
        async with serving(loaded):
            go.touch()
            await until(answer.exists)
            assert " 401 " in answer.read_text().splitlines()[0]
            assert "agent `reader` may not use the control socket" in answer.read_text()
            assert await asyncio.to_thread(popen.wait, SECONDS) == 0
            assert await asyncio.to_thread(client.get, "agents")
    finally:
        popen.kill()
        popen.wait()
