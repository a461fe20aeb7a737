"""A governed call at AWS, GitHub and Kubernetes: its credential works while it acts, and not after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aws import Server, aws_server
from cloud_targets import DENIES, AwsTarget, GitHubTarget, KubernetesTarget
from github_server import github_server
from kubernetes_server import kubernetes_server
from world import World, standing

from remit.credentials.leases import Leases
from remit.credentials.port import Binding
from remit.credentials.sealing import KeySeal
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.lease import Credential, LeaseScope
from remit.model.outcome import Ending, Outcome
from remit.storage.sqlite.leases import SqliteLeases

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def account() -> Iterator[Server]:
    with aws_server() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield session


def lease_at(world: World, target: Any, scope: LeaseScope) -> Leases:
    binding = Binding(name="cloud", broker=target.broker, grant=target.grant, scope=scope)
    leases = Leases(
        bindings={"desk": binding},
        store=SqliteLeases(world.house.journal),
        recorder=world.authority.evidence,
        clock=world.authority.clock,
        seal=KeySeal(bytes(32)),
        installation=target.installation,
    )
    object.__setattr__(world.authority, "leases", leases)
    return leases


async def governed(target: Any, folder: Path) -> None:
    """Perform two calls under one task, end it, and use the credential again."""
    used: list[Credential] = []

    async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        assert credential is not None
        used.append(credential)
        assert await target.accepts(credential)
        return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=b"{}")

    async with standing(folder) as world:
        leases = lease_at(world, target, LeaseScope.TASK)
        calls = [world.call(), world.call()]
        for call in calls:
            assert (await world.perform(call, act=act)).ending is Ending.SUCCEEDED
        assert used[0].values == used[1].values, "one credential for the task"
        assert await target.accepts(used[0])
        await leases.settle_task(world.opened.task.id)
        assert not await target.accepts(used[0])
        assert leases.open_leases() == ()
        await world.authority.evidence.barrier()
        records = [
            record for _, record in await world.authority.evidence.chain(world.opened.task.id)
        ]
        (settled,) = [each for each in records if each.kind == "lease.settled"]
        assert settled.body["confirmed"] is True
        said = " ".join(str(record) for record in records)
        assert not any(secret in said for secret in used[0].secrets)


async def test_at_aws(account: Server, http: aiohttp.ClientSession, tmp_path: Path):
    await governed(AwsTarget(account, http, **DENIES, probe=True), tmp_path)


async def test_at_github(http: aiohttp.ClientSession, tmp_path: Path):
    async with github_server() as server:
        await governed(GitHubTarget(server, http, tmp_path), tmp_path)
        assert not server.tokens


async def test_at_kubernetes(http: aiohttp.ClientSession, tmp_path: Path):
    async with kubernetes_server() as server:
        await governed(KubernetesTarget(server, http, tmp_path), tmp_path)
        assert not server.secrets


async def test_a_killed_call_leaves_nothing_at_kubernetes(
    http: aiohttp.ClientSession, tmp_path: Path
):
    """The next run knows only the row: it finds the secret by the handle, and ends the token."""
    async with kubernetes_server() as server:
        target = KubernetesTarget(server, http, tmp_path)
        used: list[Credential] = []
        acting = asyncio.Event()

        async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
            assert credential is not None
            used.append(credential)
            acting.set()
            return await asyncio.Future()

        async with standing(tmp_path) as world:
            lease_at(world, target, LeaseScope.CALL)
            performing = asyncio.create_task(world.perform(act=act))
            await acting.wait()
            after = lease_at(world, target, LeaseScope.CALL)
            await after.load()
            assert len(after.open_leases()) == 1
            await after.sweep(lambda _: False)
            assert after.open_leases() == ()
            assert not await target.accepts(used[0])
            assert not server.secrets
            performing.cancel()
            await asyncio.gather(performing, return_exceptions=True)
