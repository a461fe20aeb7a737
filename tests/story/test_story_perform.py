"""Where the story of one call is cut: each barrier, each wait, each way to lie about who asks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from world import World

from remit.closing import close_task
from remit.credentials.port import Order, Revocation
from remit.model.errors import (
    ApprovalRequiredError,
    EvidenceError,
    MandateError,
    UnavailableError,
    UnidentifiedError,
    UpstreamError,
)
from remit.model.lease import Lease, LeaseScope
from remit.model.outcome import Ending, Outcome
from remit.model.subject import Claim, SpiffeId
from remit.model.task import TaskState
from remit.testing.identity import ForeignSigner, trust_domain

OUTCOMES = {
    *("call.succeeded", "call.failed", "call.denied"),
    *("call.unknown", "call.unidentified", "call.unadmitted"),
}


async def outcomes(world: World, call: Any) -> list[str]:
    return [kind for kind in await world.kinds(call) if kind in OUTCOMES]


class _Barriers:
    """Counts the barriers of the ledger, and fails them from the ``first``th to the ``last``th."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.first = self.last = 0
        self._whole = world.authority.evidence.barrier
        monkeypatch.setattr(world.authority.evidence, "barrier", self._barrier)

    async def _barrier(self) -> None:
        self.count += 1
        if self.first <= self.count <= self.last:
            raise EvidenceError("the disk is full")
        await self._whole()


@pytest.fixture
def barriers(world: World, monkeypatch: pytest.MonkeyPatch) -> _Barriers:
    return _Barriers(world, monkeypatch)


async def test_a_call_with_a_credential_waits_before_minting_before_acting_and_before_answering(
    world: World, barriers: _Barriers, monkeypatch: pytest.MonkeyPatch
):
    world.lease_calls()
    passed: dict[str, int] = {}
    issue = world.target.issue

    async def issuing(order: Order) -> Any:
        passed["minted"] = barriers.count
        return await issue(order)

    async def act(*_: object) -> Outcome:
        passed["acted"] = barriers.count
        return Outcome(ending=Ending.SUCCEEDED, target="desk/read")

    monkeypatch.setattr(world.target, "issue", issuing)
    await world.perform(act=act)
    assert passed == {"minted": 1, "acted": 2}
    assert barriers.count > 2


@pytest.mark.parametrize("heals", [False, True])
@pytest.mark.parametrize("first", [1, 2, 3, 4])
async def test_with_evidence_down_at_any_barrier_no_success_is_heard_and_no_credential_is_left(
    world: World, barriers: _Barriers, first: int, *, heals: bool
):
    world.lease_calls()
    barriers.first, barriers.last = first, first if heals else 1_000
    call = world.call()
    with pytest.raises(EvidenceError):
        await world.perform(call)
    assert len(world.acted) == (0 if first <= 2 else 1)
    assert world.target.live == set()
    barriers.last = 0
    assert len(await outcomes(world, call)) == 1


@pytest.mark.parametrize("until_step", ["identify", "decide"])
async def test_a_caller_that_goes_away_before_the_decision_leaves_a_failed_call(
    world: World, monkeypatch: pytest.MonkeyPatch, until_step: str
):
    started = asyncio.Event()

    async def hang(*_: object) -> Any:
        started.set()
        await asyncio.Event().wait()

    room = world.authority.identity if until_step == "identify" else world.authority.policy
    monkeypatch.setattr(room, until_step, hang)
    call = world.call()
    running = asyncio.create_task(world.perform(call))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.acted == []
    assert await outcomes(world, call) == ["call.failed"]


@pytest.mark.parametrize("room", ["tasks.measure", "approvals.granted", "catalogue.find"])
async def test_a_fault_of_ours_before_the_decision_leaves_a_failed_call(
    world: World, monkeypatch: pytest.MonkeyPatch, room: str
):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("hunter2")

    name, _, method = room.partition(".")
    monkeypatch.setattr(getattr(world.authority, name), method, broken)
    call = world.call()
    with pytest.raises(RuntimeError):
        await world.perform(call)
    assert world.acted == []
    assert await outcomes(world, call) == ["call.failed"]
    assert "hunter2" not in str(await world.authority.evidence.find(call.id))


async def test_a_caller_that_goes_away_twice_still_leaves_no_credential(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.lease_calls()
    acting, revoking, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    revoke = world.target.revoke

    async def slowly(lease: Lease, keep: str | None) -> Revocation:
        revoking.set()
        await go.wait()
        return await revoke(lease, keep)

    async def act(*_: object) -> Outcome:
        acting.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(world.target, "revoke", slowly)
    call = world.call()
    running = asyncio.create_task(world.perform(call, act=act))
    await acting.wait()
    running.cancel()
    await revoking.wait()
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.target.live == set()
    assert await outcomes(world, call) == ["call.unknown"]


@pytest.mark.parametrize("how", ["hangs", "breaks"])
async def test_a_target_that_hangs_or_breaks_at_revoking_does_not_turn_success_into_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
):
    world.lease_calls(revoke_seconds=0.05)

    async def revoke(_: Lease, keep: str | None) -> Revocation:
        if how == "breaks":
            raise RuntimeError("a fault of the broker's")
        await asyncio.Event().wait()
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(world.target, "revoke", revoke)
        call = world.call()
        outcome = await world.perform(call)
        assert outcome.ending is Ending.SUCCEEDED
        assert await outcomes(world, call) == ["call.succeeded"]
        assert world.target.live
        later = world.authority.clock() + timedelta(seconds=5)
        patched.setattr(world.authority.leases, "_clock", lambda: later)
        # Nor does it hold up the sweep, which goes on to the next lease.
        assert await world.authority.leases.sweep(world.authority.tasks.is_open) == 1
    later = world.authority.clock() + timedelta(seconds=60)
    monkeypatch.setattr(world.authority.leases, "_clock", lambda: later)
    assert await world.authority.leases.sweep(world.authority.tasks.is_open) == 0
    assert world.target.live == set()


async def test_a_target_that_hangs_at_minting_fails_the_call_in_time_and_is_revoked(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.lease_calls()
    object.__setattr__(world.authority.limits, "issue_seconds", 0.05)

    async def issue(order: Order) -> Any:
        world.target.live.add(order.lease.handle)
        await asyncio.Event().wait()

    monkeypatch.setattr(world.target, "issue", issue)
    call = world.call()
    with pytest.raises(UnavailableError, match="issuing the credential took longer"):
        await world.perform(call)
    assert world.acted == []
    assert world.target.live == set()
    assert await outcomes(world, call) == ["call.failed"]


async def test_calls_that_share_a_credential_of_their_task_mint_it_once(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.lease_calls(scope=LeaseScope.TASK)
    issue, minted = world.target.issue, []

    async def slowly(order: Order) -> Any:
        minted.append(order.lease.id)
        await asyncio.sleep(0.01)
        return await issue(order)

    monkeypatch.setattr(world.target, "issue", slowly)
    await asyncio.gather(*(world.perform() for _ in range(3)))
    assert len(world.acted) == 3
    assert len(minted) == 1
    assert world.target.live
    await close_task(world.opened.task.id, TaskState.COMPLETED, "user:ada", world.authority)
    assert world.target.live == set()


async def test_an_identity_provider_that_hangs_is_a_refusal_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def identify(_: Claim) -> None:
        await asyncio.Event().wait()

    object.__setattr__(world.authority.limits, "identify_seconds", 0.05)
    monkeypatch.setattr(world.authority.identity, "identify", identify)
    call = world.call()
    with pytest.raises(UnavailableError, match="identifying the caller took longer"):
        await world.perform(call)
    assert world.acted == []
    assert await outcomes(world, call) == ["call.failed"]


async def test_a_task_closed_between_decision_and_act_makes_the_call_not_act(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.lease_calls()
    minting, go = asyncio.Event(), asyncio.Event()
    issue = world.target.issue

    async def slowly(order: Order) -> Any:
        minting.set()
        await go.wait()
        return await issue(order)

    monkeypatch.setattr(world.target, "issue", slowly)
    call = world.call()
    running = asyncio.create_task(world.perform(call))
    await minting.wait()
    closing = asyncio.create_task(
        close_task(world.opened.task.id, TaskState.CANCELLED, "user:ada", world.authority)
    )
    while world.authority.tasks.is_open(world.opened.task.id):  # noqa: ASYNC110 - no event says it
        await asyncio.sleep(0)
    go.set()
    with pytest.raises(MandateError, match="closed while the call was under way"):
        await running
    await closing
    assert world.acted == []
    assert world.target.live == set()
    assert await outcomes(world, call) == ["call.unadmitted"]


async def test_two_calls_for_the_last_of_a_budget_act_once(world: World):
    for _ in range(2):
        await world.perform()
    world.acted.clear()
    calls = [world.call(), world.call()]
    done = await asyncio.gather(*map(world.perform, calls), return_exceptions=True)
    assert len(world.acted) == 1
    assert sum(isinstance(answer, Outcome) for answer in done) == 1
    assert [len(await outcomes(world, call)) for call in calls] == [1, 1]


async def test_an_approval_that_is_asked_for_leaves_one_outcome_and_the_question(world: World):
    call = world.call("pay", amount=50)
    with pytest.raises(ApprovalRequiredError):
        await world.perform(call)
    assert await outcomes(world, call) == ["call.denied"]
    assert world.acted == []


def _tampered(token: str) -> str:
    head, payload, signature = token.split(".")
    return (
        f"{head}.{payload}.{signature[:10]}{'A' if signature[10] != 'A' else 'B'}{signature[11:]}"
    )


def _lie(world: World, folder: Path, how: str) -> str:
    """Return a bearer token that is wrong in one way."""
    genuine, who = world.svid(), world.agent.spiffe_id
    now = int(datetime.now(UTC).timestamp())
    fine = {"sub": str(who), "aud": ["remit"], "iat": now, "exp": now + 300}
    if how == "forged":
        return _tampered(genuine)
    if how == "foreign_key":
        return ForeignSigner().sign(fine)
    if how == "unsigned":
        return ForeignSigner().sign(fine, alg="none")
    if how == "wrong_domain":
        evil = trust_domain(folder, clock=lambda: datetime.now(UTC), name="evil.example")
        return evil.issue_jwt_svid(SpiffeId("evil.example", who.path), ["remit"], seconds=300)
    if how == "unregistered":
        nobody = SpiffeId(who.trust_domain, "/agent/nobody")
        return world.house.trust_domain.issue_jwt_svid(nobody, ["remit"])
    return world.opened.token


@pytest.mark.parametrize(
    "how",
    ["forged", "foreign_key", "unsigned", "wrong_domain", "unregistered", "task_token"],
)
async def test_a_lie_about_who_asks_is_refused_with_a_record(
    world: World, tmp_path: Path, how: str
):
    call = world.call()
    bearer = _lie(world, tmp_path / "liar", how)
    with pytest.raises(UnidentifiedError) as refused:
        await world.perform(call, claim=world.claim(bearer=bearer))
    assert bearer not in str(refused.value)
    assert world.acted == []
    assert await world.kinds(call) == ["call.unidentified"]


async def test_an_identity_is_refused_once_it_has_expired(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    claim = world.claim()
    await world.perform(claim=claim)  # and so it is in every cache
    world.acted.clear()
    later = datetime.now(UTC) + timedelta(minutes=30)
    for part in (world.authority.identity._svids, world.authority.identity._svids._tokens):
        monkeypatch.setattr(part, "_clock", lambda: later)
    call = world.call()
    with pytest.raises(UnidentifiedError, match="expired"):
        await world.perform(call, claim=claim)
    assert world.acted == []
    assert await world.kinds(call) == ["call.unidentified"]


async def test_a_suspended_agent_leaves_a_record_and_works_again_once_resumed(world: World):
    claim = world.claim()
    await world.perform(claim=claim)
    await world.authority.registry.suspend(world.agent.name, "user:ada")
    call = world.call()
    with pytest.raises(UnidentifiedError, match="suspended"):
        await world.perform(call, claim=claim)
    assert await world.kinds(call) == ["call.unidentified"]
    await world.authority.registry.resume(world.agent.name, "user:ada")
    await world.perform(claim=claim)
    assert len(world.acted) == 2


@pytest.mark.parametrize("token", ["none", "forged", "svid"])
async def test_a_task_token_that_does_not_hold_is_refused_with_a_record(world: World, token: str):
    shown = {"none": None, "forged": _tampered(world.opened.token), "svid": world.svid()}[token]
    call = world.call()
    with pytest.raises(MandateError):
        await world.perform(call, claim=world.claim(task_token=shown))
    assert world.acted == []
    assert await world.kinds(call) == ["call.identified", "call.unadmitted"]


async def test_a_cancelled_task_refuses_and_its_end_is_said_once(world: World):
    await close_task(world.opened.task.id, TaskState.CANCELLED, "user:ada", world.authority)
    call = world.call()
    with pytest.raises(MandateError, match="cancelled"):
        await world.perform(call)
    assert await outcomes(world, call) == ["call.unadmitted"]


@pytest.mark.parametrize("how", ["returned", "raised"])
async def test_an_ending_too_long_for_a_record_is_recorded_shorter_and_the_credential_is_gone(
    world: World, how: str
):
    world.lease_calls()

    async def act(*_: object) -> Outcome:
        if how == "raised":
            raise UpstreamError("x" * 70_000)
        return Outcome(ending=Ending.SUCCEEDED, target="desk/read", detail="x" * 70_000)

    call = world.call()
    results = await asyncio.gather(world.perform(call, act=act), return_exceptions=True)
    assert [isinstance(result, UpstreamError) for result in results] == [how == "raised"]
    ended = "call.failed" if how == "raised" else "call.succeeded"
    assert await outcomes(world, call) == [ended]
    assert world.target.live == set()


@pytest.mark.parametrize("when", ["before it acts", "as it ends"])
async def test_a_group_of_writes_that_is_lost_leaves_one_outcome_once_there_is_room_again(
    world: World, monkeypatch: pytest.MonkeyPatch, when: str
):
    world.lease_calls()

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    reserve = world.authority.leases.reserve

    def reserving(*given: Any, **named: Any) -> Any:
        world.house.journal.stage(full)
        return reserve(*given, **named)

    async def act(*_: object) -> Outcome:
        world.acted.append(call)
        if when == "as it ends":
            world.house.journal.stage(full)
        return Outcome(ending=Ending.SUCCEEDED, target="desk/read")

    if when == "before it acts":
        monkeypatch.setattr(world.authority.leases, "reserve", reserving)
    call = world.call()
    with pytest.raises(EvidenceError):
        await world.perform(call, act=act)
    assert len(world.acted) == (0 if when == "before it acts" else 1)
    assert world.target.live == set()
    expected = "call.failed" if when == "before it acts" else "call.succeeded"
    assert await outcomes(world, call) == [expected]


async def test_a_log_that_cannot_be_published_lets_nothing_act_past_its_grace_until_it_can(
    world: World, tmp_path: Path
):
    log, away = tmp_path / "s" / "log", tmp_path / "away"
    publisher = world.authority.evidence.publisher
    await publisher.publish()
    log.rename(away)
    log.write_text("in the way")
    await world.perform()
    async with asyncio.timeout(10):
        while publisher.health() is None:  # noqa: ASYNC110 - it is the publisher's own turn
            await asyncio.sleep(0.05)
    assert "cannot be published" in str(world.authority.evidence.health())
    await world.perform()  # its records are durable, and the trouble is young
    publisher.grace_seconds = 0.0
    world.acted.clear()
    call = world.call()
    with pytest.raises(EvidenceError, match="cannot be published"):
        await world.perform(call)
    assert world.acted == []
    assert await outcomes(world, call) == ["call.failed"]
    log.unlink()
    away.rename(log)
    async with asyncio.timeout(10):
        while publisher.health() is not None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    await world.perform()
    assert len(world.acted) == 1
