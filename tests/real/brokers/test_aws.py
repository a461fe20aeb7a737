"""The AWS broker at moto, which enforces IAM: sessions, session policies, denials, web identities."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aws import ACCOUNT, Server, aws_server
from botocore.exceptions import ClientError
from cloud_targets import DENIES, INSTALLATION, READ
from cloud_targets import AwsTarget as Aws
from lossy import lossy

from remit.model.errors import BrokerError, NotMintedError
from remit.model.lease import LeaseState
from remit.testing.broker_suite import BrokerSuite, Lab

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with aws_server() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield session


@pytest.fixture
def aws(server: Server, http: aiohttp.ClientSession) -> Aws:
    return Aws(server, http, **DENIES)


class TestDenied(BrokerSuite):
    """Remit holds no key, and the role's policy denies what is over."""

    @pytest.fixture
    def target(self, server: Server, http: aiohttp.ClientSession) -> Aws:
        return Aws(server, http, **DENIES, timeout_seconds=3.0)


class TestProbed(BrokerSuite):
    """The same, and AWS is asked with the session's own keys whether it is over."""

    @pytest.fixture
    def target(self, server: Server, http: aiohttp.ClientSession) -> Aws:
        return Aws(server, http, **DENIES, probe=True, timeout_seconds=3.0)


class TestAtExpiry(BrokerSuite):
    """The same without denials: it runs out."""

    @pytest.fixture
    def target(self, server: Server, http: aiohttp.ClientSession) -> Aws:
        return Aws(server, http, probe=True, timeout_seconds=3.0)


@pytest.fixture
def keys(server: Server, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> Aws:
    monkeypatch.setenv("REMIT_AWS_KEY", server.key)
    return Aws(
        server,
        http,
        login="keys",
        access_key_id=server.key_id,
        secret_access_key="env:REMIT_AWS_KEY",
        revoke="session",
        timeout_seconds=3.0,
    )


class TestWithKeys(BrokerSuite):
    """The same with a standing key of Remit's."""

    @pytest.fixture
    def target(self, keys: Aws) -> Aws:
        return keys


async def test_a_session_policy_narrows_and_never_widens(aws: Aws):
    lab = Lab(aws)
    credential = await aws.broker.issue(lab.order())
    assert await aws.accepts(credential)
    assert not await aws.accepts(credential, "payroll/march.csv"), "the role may, the session not"
    wide = {"policy": [{"Action": ["*"], "Resource": ["*"]}]}
    credential = await aws.broker.issue(lab.order(grant=wide))
    assert await aws.accepts(credential, "payroll/march.csv")
    values = credential.values
    iam = aws.server.client(
        "iam", values["access_key_id"], values["secret_access_key"], values["session_token"]
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        await asyncio.to_thread(iam.list_roles)


@pytest.mark.parametrize("how", ["aws", "keys"])
async def test_task_and_tags_reach_the_roles_conditions(
    how: str, aws: Aws, keys: Aws, server: Server
):
    target = {"aws": aws, "keys": keys}[how]
    condition = {
        "StringLike": {"aws:SourceIdentity": "task_*", "aws:userid": f"*:{INSTALLATION}-*"},
        "StringEquals": {"aws:PrincipalTag/team": "sales"},
    }
    allow = {"Effect": "Allow", "Action": "s3:*", "Resource": "*", "Condition": condition}
    server.enforce(on=False)
    server.client("iam").put_role_policy(
        RoleName="other",
        PolicyName="all",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow]}),
    )
    server.enforce(on=True)
    broker = target.another(role=f"arn:aws:iam::{ACCOUNT}:role/other")
    lab = Lab(target)
    tagged = {**READ, "tags": {"team": "sales"}}
    assert await target.accepts(await broker.issue(lab.order(grant=tagged)))
    assert not await target.accepts(await broker.issue(lab.order()))
    silent = target.another(role=f"arn:aws:iam::{ACCOUNT}:role/other", source_identity=False)
    assert not await target.accepts(await silent.issue(lab.order(grant=tagged)))


async def test_sts_gives_no_less_than_its_least_and_that_is_said(server: Server, http: Any):
    target = Aws(server, http)
    order = Lab(target, seconds=60).order()
    credential = await target.broker.issue(order)
    assert credential.expires_at is not None
    lives = credential.expires_at - datetime.now(UTC)
    assert timedelta(seconds=870) < lives <= timedelta(seconds=901)
    lease = order.lease.moved(
        LeaseState.SETTLING, issued_at=datetime.now(UTC), expires_at=credential.expires_at
    )
    answer = await target.broker.revoke(lease, None)
    assert answer.until is not None
    assert answer.until >= credential.expires_at


async def test_a_lost_session_is_denied_by_its_name_alone(aws: Aws):
    async with lossy(urlsplit(aws.server.url).port or 0) as relay:
        between = aws.another(sts_url=f"http://127.0.0.1:{relay.port}", timeout_seconds=1.0)
        order = Lab(aws).order()
        relay.losing = True
        with pytest.raises(BrokerError) as raised:
            await between.issue(order)
        assert not isinstance(raised.value, NotMintedError)
    assert (await aws.broker.census([order.lease])).unasked == {order.lease.handle}
    assert (await aws.broker.revoke(order.lease.moved(LeaseState.SETTLING), None)).until is None
    assert not (await aws.broker.census([order.lease])).unasked
    late = await aws.broker.issue(order)
    assert not await aws.accepts(late), "a session that begins after its denial is denied as well"


async def test_a_lost_session_that_only_runs_out_is_over_once(server: Server, http: Any):
    """The book keeps what it was told: being asked again must not put the end off for ever."""
    target = Aws(server, http)
    lost = Lab(target).order().lease.moved(LeaseState.SETTLING)
    first = await target.broker.revoke(lost, None)
    assert first.until is not None
    told = replace(lost, state=LeaseState.UNKNOWN, expires_at=first.until)
    assert (await target.broker.revoke(told, None)).until == first.until
    target.ahead = first.until - datetime.now(UTC)
    assert (await target.broker.revoke(told, None)).until is None


async def test_an_end_is_not_confirmed_while_aws_still_accepts_the_session(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    broker = aws.another(probe=True)
    order = Lab(aws).order()
    credential = await broker.issue(order)

    async def nothing(*_: Any) -> None:
        """A deny that has not spread yet."""

    with monkeypatch.context() as patch:
        patch.setattr(broker._denials, "add", nothing)
        answer = await broker.revoke(order.lease, credential.keep)
        assert not answer.confirmed
        assert answer.until is not None
        assert await aws.accepts(credential)
    assert (await broker.revoke(order.lease, credential.keep)).confirmed
    assert not await aws.accepts(credential)


async def test_a_role_that_never_allowed_the_probe_confirms_nothing(aws: Aws):
    broker = aws.another(probe=True, role=f"arn:aws:iam::{ACCOUNT}:role/mute", revoke="never")
    for grant in (READ, {"whole_role": True}):
        with pytest.raises(BrokerError, match="GetAccessKeyInfo") as raised:
            await broker.issue(Lab(aws).order(grant=grant))
        assert not isinstance(raised.value, NotMintedError), "a session has begun"


async def test_a_denial_outlives_a_restart_and_goes_when_it_is_not_needed_any_more(aws: Aws):
    lab = Lab(aws)
    lease, credential = await lab.issue()
    await aws.broker.revoke(lease, None)
    after = aws.another()
    other, _ = await lab.issue()
    await after.revoke(other, None)
    assert not await aws.accepts(credential), "the second run kept what the first denied"
    assert not (await after.census([lease, other])).alive
    aws.ahead = timedelta(seconds=2000)
    third = lab.order().lease
    await after.revoke(third, None)
    said = aws.server.client("iam", aws.server.key_id, aws.server.key).get_role_policy(
        RoleName="agent", PolicyName=f"{INSTALLATION}-over"
    )["PolicyDocument"]
    assert lease.handle not in json.dumps(said)
    assert third.handle in json.dumps(said)


async def test_a_full_list_is_owned_up_to_and_keeps_what_it_has(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    lab = Lab(aws)
    lease, credential = await lab.issue()
    await aws.broker.revoke(lease, None)
    monkeypatch.setattr("remit.credentials.brokers.aws.denials.MOST_CHARACTERS", 100)
    other, alive = await lab.issue()
    answer = await aws.broker.revoke(other, None)
    assert answer.until is not None
    assert answer.until > datetime.now(UTC) + timedelta(seconds=800)
    assert not await aws.accepts(credential)
    assert await aws.accepts(alive)


async def test_a_policy_that_somebody_else_wrote_is_left_alone(server: Server, http: Any):
    server.enforce(on=False)
    foreign = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
    }
    server.client("iam").put_role_policy(
        RoleName="other", PolicyName=f"{INSTALLATION}-over", PolicyDocument=json.dumps(foreign)
    )
    server.enforce(on=True)
    target = Aws(server, http, **DENIES, role=f"arn:aws:iam::{ACCOUNT}:role/other")
    with pytest.raises(BrokerError, match="somebody else"):
        await target.broker.revoke(Lab(target).order().lease, None)


@pytest.mark.parametrize(
    "options",
    [{"subject": "somebody"}, {"audience": "other"}, {"role": f"arn:aws:iam::{ACCOUNT}:role/no"}],
)
async def test_a_role_that_does_not_trust_this_token_begins_nothing(
    aws: Aws, options: dict[str, Any]
):
    with pytest.raises(NotMintedError, match="AccessDenied"):
        await aws.another(**options).issue(Lab(aws).order())


async def test_a_wrong_key_of_remits_own_is_said_without_being_shown(
    keys: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REMIT_AWS_KEY", "w" * 40)
    with pytest.raises(NotMintedError, match="SignatureDoesNotMatch") as raised:
        await keys.broker.issue(Lab(keys).order())
    assert "w" * 40 not in str(raised.value)


async def test_a_session_longer_than_the_role_allows_is_refused(aws: Aws):
    with pytest.raises(NotMintedError, match="MaxSessionDuration"):
        await aws.broker.issue(Lab(aws, seconds=7200).order())
