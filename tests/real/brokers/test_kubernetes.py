"""The Kubernetes broker at a server of ours that follows the API's description and its source."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cloud_targets import KubernetesTarget as Target
from kubernetes_server import LEEWAY_SECONDS, kubernetes_server
from lossy import lossy

from remit.model.errors import BrokerError, NotMintedError
from remit.model.lease import LeaseState
from remit.testing.broker_suite import BrokerSuite, Lab

pytestmark = pytest.mark.real


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    async with kubernetes_server() as server, aiohttp.ClientSession(trust_env=False) as http:
        made = Target(server, http, tmp_path)
        yield made
        await made.broker.close()


class TestKubernetes(BrokerSuite):
    @pytest.fixture
    def target(self, target: Target) -> Target:
        return target


async def test_the_secret_says_which_lease_task_and_workload_it_is_for_and_holds_nothing(
    target: Target,
):
    order = Lab(target).order()
    await target.broker.issue(order)
    (secret,) = target.server.secrets.values()
    assert secret["metadata"]["name"] == order.lease.handle
    assert secret["metadata"]["annotations"] == {
        "remit.dev/lease": order.lease.id,
        "remit.dev/task": order.lease.task,
        "remit.dev/workload": order.workload,
    }
    assert "data" not in secret
    assert "stringData" not in secret


async def test_a_token_is_for_its_audience_alone_and_reviewed_for_that(target: Target):
    lab = Lab(target)
    order = lab.order(grant={"service_account": "viewer", "audiences": ["https://vault.example"]})
    credential = await target.broker.issue(order)
    assert not await target.accepts(credential), "the API server is not its audience"
    token = credential.values["token"]
    assert target.server.authenticate(token, ["https://vault.example"])
    assert (await target.broker.revoke(order.lease, credential.keep)).confirmed
    assert not target.server.authenticate(token, ["https://vault.example"])


async def test_an_end_is_not_confirmed_while_the_api_server_remembers_the_token(target: Target):
    target.server.remembers_seconds = 10
    lease, credential = await Lab(target).issue()
    assert await target.accepts(credential)
    answer = await target.broker.revoke(lease, credential.keep)
    assert not answer.confirmed
    assert answer.until is not None
    assert await target.accepts(credential), "it is true"
    target.server.ahead = (answer.until - datetime.now(UTC)).total_seconds()
    assert (await target.broker.revoke(lease, credential.keep)).confirmed
    assert not await target.accepts(credential)


@pytest.mark.parametrize(
    "asked",
    [["https://vault.example"], ["https://store.example"]],
    ids=["the first", "the last"],
)
async def test_what_is_remembered_of_one_audience_is_not_missed_by_asking_for_all(
    target: Target, asked: list[str]
):
    """A memory is of a token and the audiences that it was asked about with, together."""
    target.server.remembers_seconds = 10
    audiences = ["https://vault.example", "https://store.example"]
    order = Lab(target).order(grant={"service_account": "viewer", "audiences": audiences})
    credential = await target.broker.issue(order)
    token = credential.values["token"]
    assert target.server.authenticate(token, asked), "as a resource of that name asks"
    answer = await target.broker.revoke(order.lease, credential.keep)
    assert not answer.confirmed
    assert answer.until is not None
    assert target.server.authenticate(token, asked), "it is true"
    target.server.ahead = (answer.until - datetime.now(UTC)).total_seconds()
    assert (await target.broker.revoke(order.lease, credential.keep)).confirmed
    assert not target.server.authenticate(token, asked)


async def test_while_it_is_remembered_the_census_does_not_say_that_nothing_is_alive(target: Target):
    target.server.remembers_seconds = 10
    lab = Lab(target)
    lease, credential = await lab.issue()
    assert await target.accepts(credential)
    assert not (await lab.revoke(lease, credential)).confirmed
    settling = lease.moved(LeaseState.SETTLING)
    census = await target.broker.census([settling, (await lab.issue())[0]])
    assert census.unasked == {lease.handle}
    assert lease.handle not in census.alive


async def test_ten_minutes_is_the_least_and_that_is_said(target: Target):
    order = Lab(target, seconds=60).order()
    credential = await target.broker.issue(order)
    assert credential.expires_at is not None
    lives = credential.expires_at - datetime.now(UTC)
    assert timedelta(seconds=590) < lives <= timedelta(seconds=600)


async def test_a_longer_lease_gets_no_longer_token(target: Target):
    order = Lab(target, seconds=1800).order()
    credential = await target.broker.issue(order)
    assert credential.expires_at is not None
    assert credential.expires_at <= order.lease.expires_at


async def test_after_a_restart_a_lost_mint_is_found_by_list_and_name(target: Target):
    order = Lab(target).order()
    credential = await target.broker.issue(order)
    after = target.another()
    assert (await after.census([])).alive == {order.lease.handle}
    assert (await after.revoke(order.lease.moved(LeaseState.SETTLING), None)).confirmed
    assert not await target.accepts(credential)


async def test_a_list_in_pages_is_read_to_its_end_and_names_no_others(target: Target):
    lab = Lab(target)
    handles = {(await lab.issue())[0].handle for _ in range(7)}
    foreign = {"metadata": {"name": "other", "labels": {"remit.dev/installation": "remit-ffff"}}}
    target.server.secrets["other"] = foreign
    target.server.page = 3
    assert (await target.broker.census([])).alive == handles


@pytest.mark.parametrize("losing_at", ["secret", "token"])
async def test_an_answer_that_is_lost_on_the_way_is_ended_by_name(target: Target, losing_at: str):
    async with lossy(target.server.port) as relay:
        between = target.another(url=f"http://127.0.0.1:{relay.port}", timeout_seconds=0.4)
        order = Lab(target).order()
        if losing_at == "secret":
            relay.losing = True
        else:
            target.server.failing = {"create serviceaccounts/token"}
            target.server.forbidden = {"delete secrets"}
        with pytest.raises(BrokerError) as raised:
            await between.issue(order)
        assert not isinstance(raised.value, NotMintedError)
        assert order.lease.handle in target.server.secrets
    target.server.failing, target.server.forbidden = set(), set()
    assert (await target.broker.revoke(order.lease, None)).confirmed
    assert not target.server.secrets


async def test_a_mint_that_nobody_waits_for_any_more_is_not_overtaken(target: Target):
    server, order = target.server, Lab(target).order()
    server.hold = asyncio.Event()
    minting = asyncio.create_task(target.broker.issue(order))
    await server.holding.wait()
    minting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await minting
    revoking = asyncio.create_task(target.broker.revoke(order.lease, None))
    await asyncio.sleep(0)
    server.hold.set()
    assert (await revoking).confirmed
    assert not server.secrets
    server.hold = None


@pytest.mark.parametrize(
    ("grant", "said"), [({"service_account": "nobody"}, "service_account"), ({}, "grant")]
)
async def test_a_refused_token_leaves_no_secret(target: Target, grant: dict[str, Any], said: str):
    with pytest.raises(NotMintedError, match=said):
        await target.broker.issue(Lab(target).order(grant=grant))
    assert not target.server.secrets


async def test_a_token_that_is_not_bound_is_not_used(target: Target):
    target.server.unbound = True
    with pytest.raises(BrokerError, match="not bound"):
        await target.broker.issue(Lab(target).order())


async def test_a_secret_that_a_finalizer_keeps_is_never_called_gone(target: Target):
    lease, credential = await Lab(target).issue()
    target.server.finalizers = True
    with pytest.raises(BrokerError, match="finalizers"):
        await target.broker.revoke(lease, credential.keep)
    assert await target.accepts(credential), "it is true"
    target.server.ahead = LEEWAY_SECONDS + 2
    assert not await target.accepts(credential), "a deletion that waits counts after a minute"
    with pytest.raises(BrokerError, match="finalizers"):
        await target.broker.revoke(lease, credential.keep)
    target.server.finalizers = False
    assert (await target.broker.revoke(lease, credential.keep)).confirmed


@pytest.mark.parametrize("forbidden", ["delete secrets", "get secrets", "create tokenreviews"])
async def test_a_denial_is_no_absence(target: Target, forbidden: str):
    lease, credential = await Lab(target).issue()
    target.server.forbidden = {forbidden}
    with pytest.raises(BrokerError, match="403"):
        await target.broker.revoke(lease, credential.keep)


async def test_a_role_that_may_not_make_secrets_mints_nothing(target: Target):
    target.server.forbidden = {"create secrets"}
    with pytest.raises(NotMintedError, match="role"):
        await target.broker.issue(Lab(target).order())
    target.server.forbidden = {"list secrets"}
    with pytest.raises(BrokerError, match="403"):
        await target.broker.census([])


async def test_a_rotated_token_of_remits_own_is_read_anew(target: Target):
    lease, credential = await Lab(target).issue()
    target.server.admin = "rotated-0123456789"
    with pytest.raises(BrokerError, match="401"):
        await target.broker.revoke(lease, credential.keep)
    target.token.write_text("rotated-0123456789")
    assert (await target.broker.revoke(lease, credential.keep)).confirmed
