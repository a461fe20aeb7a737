"""Remit's book over a real kube-apiserver: a governed call, and a process that is killed.

Afterwards an administrator of the cluster is asked what stands, and what was minted is used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kube_apiserver import Cluster
from kube_target import KubeTarget, past, table
from leases_under_load import INSTALLATION, MINTED, Turn, open_desk
from processes import ROOT
from world import standing

from remit.credentials.census import Report, verify_none
from remit.credentials.leases import Leases
from remit.credentials.port import Binding
from remit.credentials.sealing import KeySeal
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.lease import Credential, LeaseScope, LeaseState
from remit.model.outcome import Ending, Outcome
from remit.storage.sqlite.leases import SqliteLeases

GRANT = {"service_account": "deployer"}
LABEL = f"remit.dev/installation={INSTALLATION}"
PROGRAM = ROOT / "tests" / "support" / "leases_under_load.py"
PAST_THE_QUARANTINE = timedelta(seconds=31)


async def test_a_governed_call_works_while_its_task_runs_and_nothing_stands_afterwards(
    target: KubeTarget, tmp_path: Path
):
    used: list[Credential] = []

    async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        assert credential is not None
        used.append(credential)
        assert await target.accepts(credential)
        return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=b"{}")

    async with standing(tmp_path) as world:
        store, binding = (
            SqliteLeases(world.house.journal),
            Binding(name="kube", broker=target.broker, grant=target.grant, scope=LeaseScope.TASK),
        )
        leases = Leases(
            bindings={"desk": binding},
            store=store,
            recorder=world.authority.evidence,
            clock=world.authority.clock,
            seal=KeySeal(bytes(32)),
            installation=target.installation,
        )
        object.__setattr__(world.authority, "leases", leases)

        async def asked(*, running: bool = False) -> Report:
            await world.authority.evidence.barrier()
            now = world.authority.clock()
            return await verify_none(leases.brokers, store, lambda _: running, now)

        for call in (world.call(), world.call()):
            assert (await world.perform(call, act=act)).ending is Ending.SUCCEEDED
        assert used[0].values == used[1].values, "one credential for the task"
        assert (await asked(running=True)).none_stands
        await leases.settle_task(world.opened.task.id)
        (lease,) = leases.open_leases()
        assert lease.state is LeaseState.SETTLING
        (finding,) = (await asked()).findings
        assert finding.handle == lease.handle
        assert await target.accepts(used[0]), "it is true"
        await past(lease.expires_at)
        await leases.sweep(lambda _: False)
        assert leases.open_leases() == ()
        assert (await asked()).none_stands
        assert not await target.accepts(used[0])
        await world.authority.evidence.barrier()
        chain = await world.authority.evidence.chain(world.opened.task.id)
        (settled,) = [each for _, each in chain if each.kind == "lease.settled"]
        assert settled.body["confirmed"] is True
        said = " ".join(str(record) for _, record in chain)
        assert not any(secret in said for secret in used[0].secrets)
    assert not target.cluster.secrets()


class Lives:
    """Has one process after another lease at the cluster and die, over one state folder."""

    def __init__(self, cluster: Cluster, folder: Path, starter: asyncio.subprocess.Process) -> None:
        self.cluster, self.folder = cluster, folder
        self.table = table(cluster, cluster.remits_token(folder))
        self._starter = starter
        self._numbers = 0

    async def one(self, step: int | None = None) -> int | None:
        """Live and lease once; return the steps, or None where it was killed at one of them."""
        self._numbers += 100_000
        assert self._starter.stdin is not None
        turn = Turn(table=self.table, grant=GRANT, first=self._numbers, alone=True, step=step)
        self._starter.stdin.write(msgspec.json.encode(turn) + b"\n")
        steps = None
        assert self._starter.stdout is not None
        while (said := (await self._starter.stdout.readline()).decode().split()) != ["dead"]:
            assert said, "the program ended"
            steps = int(said[1]) if said[0] == "steps" else steps
        return steps

    def minted(self) -> list[dict[str, Any]]:
        """Return the credentials that the dead process was given."""
        file = self.folder / MINTED
        lines = file.read_bytes().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [msgspec.json.decode(line)["values"] for line in lines]

    async def left(self) -> set[LeaseState]:
        """Return what the next run takes up."""
        async with open_desk(self.folder, self.table, GRANT) as desk:
            return {each.state for each in desk.leases.open_leases()}

    async def swept(self) -> set[LeaseState]:
        """Let the next run take up the book and sweep it; return what it found there."""
        found = await self.left()
        async with open_desk(self.folder, self.table, GRANT) as desk:
            await desk.leases.sweep(lambda _: False)
            desk.clock.ahead = PAST_THE_QUARANTINE
            await desk.leases.sweep(lambda _: False)
            assert desk.leases.open_leases() == ()
        return found


@pytest.fixture
async def lives(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Lives]:
    starter = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        str(tmp_path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Lives(cluster, tmp_path, starter)
        assert starter.stdin is not None
        starter.stdin.close()
        await starter.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(starter.pid, signal.SIGKILL)
        await starter.wait()
        cluster.clear()


async def test_killed_at_any_step_of_a_lease_the_cluster_keeps_nothing(lives: Lives):
    cluster = lives.cluster
    steps = await lives.one()
    assert steps is not None
    assert steps >= 10, "three barriers, a mint and a revocation have two each"
    lives.minted()
    alive, states = 0, set()
    for step in range(1, steps + 1):
        assert await lives.one(step) is None, step
        held = lives.minted()
        alive += bool(cluster.secrets(LABEL))
        states |= await lives.swept()
        assert not cluster.secrets(LABEL), step
        for values in held:
            assert cluster.uses(values["token"]) == 401, step
    assert alive, "no kill left a token alive: nothing was shown"
    assert {LeaseState.RESERVED, LeaseState.ISSUED} <= states


async def test_killed_while_its_token_is_in_use_it_is_over_once_the_server_has_forgotten(
    lives: Lives,
):
    """What lets the token be asked about is durable before anybody uses it."""
    cluster = lives.cluster
    for step in range(1, 30):
        assert await lives.one(step) is None
        held = lives.minted()
        if await lives.left() == {LeaseState.ISSUED}:
            break
        await lives.swept()
    token = held[0]["token"]
    assert cluster.uses(token) == 200
    async with open_desk(lives.folder, lives.table, GRANT) as desk:
        desk.clock.ahead = PAST_THE_QUARANTINE
        await desk.leases.sweep(lambda _: False)
        (lease,) = desk.leases.open_leases()
        assert lease.state is LeaseState.SETTLING
        assert cluster.uses(token) == 200, "it is true"
        await past(lease.expires_at - desk.clock.ahead)
        await desk.leases.sweep(lambda _: False)
        assert desk.leases.open_leases() == ()
    assert cluster.uses(token) == 401
