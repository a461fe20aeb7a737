"""The GitHub broker at a server of ours that follows GitHub's published description of its routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cloud_targets import GitHubTarget as Target
from github_server import ORGANIZATION, github_server
from joserfc.jwk import RSAKey
from lossy import lossy

from remit.model.errors import BrokerError, NotMintedError
from remit.model.lease import LeaseState
from remit.testing.broker_suite import BrokerSuite, Lab

pytestmark = pytest.mark.real


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    async with github_server() as server, aiohttp.ClientSession(trust_env=False) as http:
        made = Target(server, http, tmp_path)
        yield made
        await made.broker.close()


class TestGitHub(BrokerSuite):
    @pytest.fixture
    def target(self, target: Target) -> Target:
        return target


async def test_a_token_is_good_for_its_repositories_and_permissions_alone(target: Target):
    _, credential = await Lab(target).issue()
    assert await target.status(credential, "/repos/corp/site/contents/x") == 200
    assert await target.status(credential, "/repos/corp/infra/contents/x") == 404
    assert await target.status(credential, "/repos/corp/site/issues") == 403
    (made,) = target.server.tokens.values()
    assert made.permissions == {"contents": "read", "metadata": "read"}


async def test_repositories_are_named_by_number_as_well(target: Target):
    grant = {"repository_ids": [102], "permissions": {"issues": "write"}}
    credential = await target.broker.issue(Lab(target).order(grant=grant))
    assert await target.status(credential, "/repos/corp/infra/issues") == 200
    assert await target.status(credential, "/repos/corp/site/issues") == 404


@pytest.mark.parametrize(
    "grant",
    [
        {"repositories": ["site", "secret"], "permissions": {"contents": "read"}},
        {"repositories": ["site"], "permissions": {"administration": "read"}},
        {"repository_ids": [999], "permissions": {"contents": "read"}},
    ],
    ids=repr,
)
async def test_what_the_installation_does_not_have_is_refused_whole(
    target: Target, grant: dict[str, Any]
):
    with pytest.raises(NotMintedError, match="422"):
        await target.broker.issue(Lab(target).order(grant=grant))
    assert not target.server.tokens


async def test_the_hour_is_githubs_own_word(target: Target):
    _, credential = await Lab(target).issue()
    assert credential.expires_at is not None
    lives = credential.expires_at - datetime.now(UTC)
    assert timedelta(minutes=59) < lives <= timedelta(minutes=60)
    target.server.ahead = 3601
    assert not await target.accepts(credential)


@pytest.mark.parametrize(
    "widened",
    [
        {"permissions": {"contents": "write", "metadata": "read"}},
        {"permissions": {"contents": "read", "issues": "read"}},
        {"permissions": {"contents": "everything"}},
        {"repository_selection": "all"},
        {"repositories": [{"id": 101, "name": "site"}, {"id": 103, "name": "payroll"}]},
        {"repositories": [{}]},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": None},
    ],
    ids=repr,
)
async def test_a_token_that_is_more_than_was_asked_for_is_revoked_at_once(
    target: Target, widened: dict[str, Any]
):
    target.server.widens = widened
    with pytest.raises(BrokerError, match="revoked"):
        await target.broker.issue(Lab(target).order())
    assert not target.server.tokens


async def test_after_a_restart_a_token_is_revoked_by_what_was_kept(target: Target):
    lease, credential = await Lab(target).issue()
    after = target.another()
    assert (await after.census([lease])).unasked == {lease.handle}
    assert (await after.revoke(lease, credential.keep)).confirmed
    assert not await target.accepts(credential)


async def test_after_a_restart_a_lost_token_is_owned_up_to_for_its_hour_and_no_longer(
    target: Target,
):
    order = Lab(target).order()
    credential = await target.broker.issue(order)
    after, lost = target.another(), order.lease.moved(LeaseState.SETTLING)
    answer = await after.revoke(lost, None)
    assert answer.until is not None
    assert credential.expires_at is not None
    assert answer.until >= credential.expires_at
    told = replace(lost, state=LeaseState.UNKNOWN, expires_at=answer.until)
    assert (await after.revoke(told, None)).until == answer.until
    target.ahead = answer.until - datetime.now(UTC)
    ended = await after.revoke(told, None)
    assert (ended.until, ended.confirmed) == (None, False)


async def test_an_answer_that_is_lost_on_the_way_is_owned_up_to(target: Target):
    async with lossy(target.server.port) as relay:
        between = target.another(api_url=f"http://127.0.0.1:{relay.port}", timeout_seconds=0.5)
        order = Lab(target).order()
        relay.losing = True
        with pytest.raises(BrokerError) as raised:
            await between.issue(order)
        assert not isinstance(raised.value, NotMintedError), "it was made, unheard"
        assert target.server.live() == 1
        answer = await between.revoke(order.lease, None)
        assert answer.until is not None


async def test_a_mint_that_nobody_waits_for_any_more_is_ended_by_its_revocation(target: Target):
    server, order = target.server, Lab(target).order()
    server.hold = asyncio.Event()
    minting = asyncio.create_task(target.broker.issue(order))
    await server.holding.wait()
    minting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await minting
    revoking = asyncio.create_task(target.broker.revoke(order.lease, None))
    await asyncio.sleep(0)
    assert not revoking.done()
    server.hold.set()
    assert (await revoking).confirmed
    assert not server.tokens
    server.hold = None


async def test_a_token_that_is_still_accepted_is_never_called_gone(target: Target):
    lease, credential = await Lab(target).issue()
    target.server.forgetful = True
    with pytest.raises(BrokerError, match="still accepted"):
        await target.broker.revoke(lease, credential.keep)
    assert (await target.broker.census([lease])).alive == {lease.handle}
    target.server.forgetful = False
    assert (await target.broker.revoke(lease, credential.keep)).confirmed


@pytest.mark.parametrize(
    "limit",
    [
        (403, {"Retry-After": "30"}),
        (429, {"Retry-After": "30"}),
        (429, {}),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "RESET"}),
        (403, {"Retry-After": "soon\u00e9"}),
    ],
    ids=repr,
)
async def test_a_rate_limit_is_heeded_and_then_over(
    target: Target, limit: tuple[int, dict[str, str]]
):
    reset = str(int(datetime.now(UTC).timestamp()) + 30)
    status, headers = limit
    target.server.answers = [(status, {k: v.replace("RESET", reset) for k, v in headers.items()})]
    lab = Lab(target)
    with pytest.raises(NotMintedError, match=str(status)):
        await target.broker.issue(lab.order())
    asked = len(target.server.asked)
    with pytest.raises(NotMintedError, match="wait"):
        await target.broker.issue(lab.order())
    assert len(target.server.asked) == asked, "github is left alone"
    target.ahead = timedelta(seconds=61)
    await target.broker.issue(Lab(target, seconds=600).order())


async def test_a_rate_limit_does_not_stand_for_a_revocation(target: Target):
    lease, credential = await Lab(target).issue()
    target.server.answers = [(403, {"Retry-After": "30"})]
    with pytest.raises(BrokerError, match="403"):
        await target.broker.revoke(lease, credential.keep)
    assert (await target.broker.revoke(lease, credential.keep)).confirmed


async def test_a_failure_of_githubs_may_have_minted(target: Target):
    target.server.answers = [(502, {})]
    with pytest.raises(BrokerError, match="502") as raised:
        await target.broker.issue(Lab(target).order())
    assert not isinstance(raised.value, NotMintedError)


async def test_a_suspended_installation_mints_nothing(target: Target):
    target.server.suspended = True
    with pytest.raises(NotMintedError, match="suspended"):
        await target.broker.issue(Lab(target).order())


async def test_the_installation_is_found_by_its_organization_once(target: Target):
    broker = target.another(installation_id=None, organization=ORGANIZATION)
    lab = Lab(target)
    await broker.issue(lab.order())
    await broker.issue(lab.order())
    assert target.server.asked.count(("GET", f"/orgs/{ORGANIZATION}/installation")) == 1
    with pytest.raises(NotMintedError, match="404"):
        await target.another(installation_id=None, organization="other").issue(lab.order())


async def test_another_apps_key_or_a_wrong_clock_is_refused(target: Target):
    target.ahead = timedelta(minutes=20)
    with pytest.raises(NotMintedError, match="clock"):
        await target.broker.issue(Lab(target, seconds=3600).order())
    target.ahead = timedelta(0)
    target.key.write_bytes(RSAKey.generate_key(2048).as_pem(private=True))
    with pytest.raises(NotMintedError, match="401"):
        await target.broker.issue(Lab(target).order())


async def test_a_key_that_is_none_is_said_without_being_shown(target: Target):
    target.key.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    with pytest.raises(NotMintedError, match="PEM") as raised:
        await target.broker.issue(Lab(target).order())
    assert "c2VjcmV0" not in str(raised.value)
