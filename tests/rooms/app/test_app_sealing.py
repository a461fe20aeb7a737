"""A task whose end was recorded, and whose seal a crash cut off, is sealed at the next start."""

from __future__ import annotations

import asyncio
from pathlib import Path

from processes import free_port

from remit.app.compose import compose
from remit.app.config import Loaded, load
from remit.app.packing import export
from remit.app.serve import serving
from remit.cli.client import ControlClient
from remit.model.errors import ProofError
from remit.model.task import TaskState
from remit.proof.verify import verify_pack

TEMPLATE = 'purpose = "Read"\n[[capability]]\ntool = "desk/read"\n'
SECONDS = 30


def configured(folder: Path) -> Loaded:
    (folder / "t").mkdir()
    (folder / "t" / "read.toml").write_text(TEMPLATE)
    (folder / "remit.toml").write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{free_port()}"\n[policy]\ntemplates = "t"\n'
    )
    return load(folder / "remit.toml")


async def opened(loaded: Loaded) -> str:
    client = ControlClient(loaded.control_socket)
    agent = {"name": "reader", "owner": "user:ada", "templates": ["read"]}
    await asyncio.to_thread(client.post, "agents", body=agent)
    task = await asyncio.to_thread(
        client.post, "tasks", body={"agent": "reader", "template": "read"}
    )
    return str(task["id"])


async def test_a_task_that_a_crash_left_unsealed_is_sealed_at_the_next_start(tmp_path: Path):
    loaded = configured(tmp_path)
    async with serving(loaded) as house:
        task = await opened(loaded)
        # What close_task does first; it is cut off before the rest.
        await house.authority.tasks.close(task, TaskState.COMPLETED, "user:ada")
    async with serving(loaded) as house:
        vkey = house.authority.evidence.signer.vkey
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    verdict = verify_pack(await export(house, task), [vkey])
                    break
                except ProofError as error:
                    assert "no seal" in str(error)  # noqa: PT017 - until it is sealed
                    await asyncio.sleep(0.05)
        assert verdict.sealed
        assert await house.authority.evidence.audit(task) == []


async def test_what_is_sealed_or_open_is_left_alone_by_the_next_start(tmp_path: Path):
    loaded = configured(tmp_path)
    async with serving(loaded) as house:
        done, running = await opened(loaded), ""
        client = ControlClient(loaded.control_socket)
        await asyncio.to_thread(client.post, "tasks", done, "complete")
        task = await asyncio.to_thread(
            client.post, "tasks", body={"agent": "reader", "template": "read"}
        )
        running = task["id"]
    house = await compose(loaded)
    try:
        assert house.authority.evidence.unsealed == ()
        assert house.authority.tasks.is_open(running)
    finally:
        await house.close()
