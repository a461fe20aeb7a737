"""One call, from claim to settled lease, through every real room."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from world import World

from remit.closing import close_task
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.errors import (
    ApprovalRequiredError,
    BrokerError,
    DeniedError,
    EvidenceError,
    InputError,
    MandateError,
    UnavailableError,
    UnidentifiedError,
    UpstreamError,
)
from remit.model.lease import LeaseState
from remit.model.outcome import Ending, Outcome
from remit.model.subject import Claim, Person
from remit.model.task import TaskState

OUTCOMES = {
    "call.succeeded",
    "call.failed",
    "call.denied",
    "call.unknown",
    "call.unidentified",
    "call.unadmitted",
}
MANAGER = Person(id="user:max", method="oidc", roles=("manager",))


def outcomes(kinds: list[str]) -> list[str]:
    return [kind for kind in kinds if kind in OUTCOMES]


async def test_a_permitted_call_leaves_each_step_in_order(world: World):
    call = world.call()
    outcome = await world.perform(call)
    assert outcome.ending is Ending.SUCCEEDED
    assert world.acted == [call]
    assert await world.kinds(call) == [
        "call.identified",
        "call.admitted",
        "call.decided",
        "call.succeeded",
    ]


async def test_what_acts_finds_its_permit_durable_already(world: World):
    call = world.call()
    seen = []

    async def act(*_: object) -> Outcome:
        seen.extend(await world.kinds(call))
        return Outcome(ending=Ending.SUCCEEDED, target=call.target)

    await world.perform(call, act=act)
    assert "call.decided" in seen


@pytest.mark.parametrize(
    ("name", "arguments", "policy"),
    [
        ("delete", {"id": "88"}, "outside_mandate"),
        ("read", {"id": "12"}, "argument_out_of_bounds"),
        ("read", {"id": "88", "all": True}, "argument_out_of_bounds"),
        ("never_seen", {"id": "88"}, "tool_unknown"),
    ],
)
async def test_a_denied_call_does_not_act_and_says_which_policy(
    world: World, name: str, arguments: dict[str, Any], policy: str
):
    call = world.call(name, **arguments)
    with pytest.raises(DeniedError) as refused:
        await world.perform(call)
    assert policy in {reason.policy for reason in refused.value.decision.reasons}
    assert world.acted == []
    assert outcomes(await world.kinds(call)) == ["call.denied"]


async def test_what_is_understood_of_a_call_is_what_is_decided_and_done(world: World):
    told = world.call(id="88")

    async def understand(call: Call) -> Call:
        return replace(call, arguments=told.arguments, digest=told.digest)

    asked = world.call(id="not yet")
    await world.perform(asked, understand=understand)
    assert [call.arguments for call in world.acted] == [{"id": "88"}]
    assert world.acted[0].id == asked.id


async def test_a_call_that_nobody_understands_is_refused_in_its_task_s_chain(world: World):
    async def understand(call: Call) -> Call:
        raise InputError(f"`{call.name}` cannot be read: write one statement")

    call = world.call()
    with pytest.raises(InputError, match="one statement"):
        await world.perform(call, understand=understand)
    assert world.acted == []
    chain = await world.authority.evidence.chain(world.opened.task.id)
    steps = [record for _, record in chain if record.call == call.id]
    assert [step.kind for step in steps] == ["call.identified", "call.admitted", "call.failed"]
    assert steps[-1].body == {
        "code": "invalid_input",
        "reason": "`read` cannot be read: write one statement",
    }


async def test_nothing_is_read_of_a_call_whose_caller_is_nobody(world: World):
    async def understand(_: Call) -> Call:
        raise AssertionError

    with pytest.raises(UnidentifiedError):
        await world.perform(claim=Claim(bearer="nobody"), understand=understand)
    with pytest.raises(MandateError):
        await world.perform(claim=world.claim(task_token=None), understand=understand)


async def test_an_approval_is_for_one_exact_call_and_once(world: World):
    call = world.call("pay", amount=50)
    with pytest.raises(ApprovalRequiredError) as asked:
        await world.perform(call)
    await world.authority.approvals.approve(asked.value.approval.id, MANAGER)
    with pytest.raises(ApprovalRequiredError):
        await world.perform(world.call("pay", amount=51))
    assert world.acted == []
    await world.perform(world.call("pay", amount=50))
    assert len(world.acted) == 1
    with pytest.raises(ApprovalRequiredError):
        await world.perform(world.call("pay", amount=50))
    assert len(world.acted) == 1


async def test_two_calls_racing_for_one_approval_act_once(world: World):
    call = world.call("pay", amount=50)
    with pytest.raises(ApprovalRequiredError) as asked:
        await world.perform(call)
    await world.authority.approvals.approve(asked.value.approval.id, MANAGER)
    await asyncio.gather(
        *(world.perform(world.call("pay", amount=50)) for _ in range(5)), return_exceptions=True
    )
    assert len(world.acted) == 1


async def test_calls_racing_for_the_last_of_a_budget_never_overspend(world: World):
    calls = [world.call() for _ in range(12)]
    results = await asyncio.gather(*map(world.perform, calls), return_exceptions=True)
    assert len(world.acted) == 3
    assert sum(isinstance(result, Outcome) for result in results) == 3
    for call in calls:
        assert len(outcomes(await world.kinds(call))) == 1


async def test_a_caller_without_an_identity_is_refused_with_a_record(world: World):
    call = world.call()
    with pytest.raises(UnidentifiedError):
        await world.perform(call, claim=Claim(bearer="x.y.z", task_token=world.opened.token))
    assert await world.kinds(call) == ["call.unidentified"]


async def test_an_identity_for_another_audience_is_refused_with_a_record(world: World):
    call = world.call()
    with pytest.raises(UnidentifiedError):
        await world.perform(call, claim=world.claim(bearer=world.svid(audience="elsewhere")))
    assert await world.kinds(call) == ["call.unidentified"]


async def test_a_suspended_agent_is_refused_at_once(world: World):
    await world.authority.registry.suspend(world.agent.name, "user:ada")
    with pytest.raises(UnidentifiedError):
        await world.perform()
    assert world.acted == []


async def test_a_task_token_is_of_no_use_to_another_workload(world: World):
    other = await world.register("other")
    call = world.call()
    with pytest.raises(MandateError, match="another workload"):
        await world.perform(call, claim=world.claim(bearer=world.svid(other)))
    assert await world.kinds(call) == ["call.identified", "call.unadmitted"]
    assert world.acted == []


async def test_a_completed_task_admits_nothing_and_the_refusal_is_recorded(world: World):
    await close_task(world.opened.task.id, TaskState.COMPLETED, "user:ada", world.authority)
    call = world.call()
    with pytest.raises(MandateError, match="completed"):
        await world.perform(call)
    assert outcomes(await world.kinds(call)) == ["call.unadmitted"]


async def test_an_expired_task_admits_nothing(world: World, monkeypatch: pytest.MonkeyPatch):
    late = world.authority.clock() + timedelta(days=2)
    monkeypatch.setattr(world.authority.tasks, "_clock", lambda: late)
    with pytest.raises(MandateError, match="expired"):
        await world.perform()
    assert world.acted == []


async def test_calls_racing_a_completion_never_act_after_it(world: World):
    closed = asyncio.Event()
    late = []

    async def act(*_: object) -> Outcome:
        if closed.is_set():
            late.append(1)
        await asyncio.sleep(0.01)
        return Outcome(ending=Ending.SUCCEEDED, target="desk/read")

    async def close() -> None:
        await close_task(world.opened.task.id, TaskState.COMPLETED, "user:ada", world.authority)
        closed.set()

    calls = [world.call() for _ in range(6)]
    await asyncio.gather(
        *(world.perform(call, act=act) for call in calls[:3]),
        close(),
        *(world.perform(call, act=act) for call in calls[3:]),
        return_exceptions=True,
    )
    assert closed.is_set()
    assert late == []
    chain = [
        record.kind for _, record in await world.authority.evidence.chain(world.opened.task.id)
    ]
    assert chain[-1] == "task.sealed"
    assert chain.index("task.completed") > max(
        (place for place, kind in enumerate(chain) if kind == "call.succeeded"), default=-1
    )


@pytest.mark.parametrize("lost", [1, 2])
async def test_with_the_log_down_nothing_acts_or_nobody_hears_success(
    world: World, monkeypatch: pytest.MonkeyPatch, lost: int
):
    ledger = world.authority.evidence
    whole, count = ledger._store.barrier, 0

    async def barrier() -> None:
        nonlocal count
        count += 1
        if count >= lost:
            raise EvidenceError("the disk is full")
        await whole()

    monkeypatch.setattr(ledger._store, "barrier", barrier)
    with pytest.raises(EvidenceError):
        await world.perform()
    assert len(world.acted) == (0 if lost == 1 else 1)


async def test_a_slow_policy_is_a_refusal_and_hangs_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def decide(_: object) -> Decision:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(world.authority.policy, "decide", decide, raising=False)
    call = world.call()
    with pytest.raises(UnavailableError, match="deciding took longer"):
        await world.perform(call)
    assert world.acted == []
    assert outcomes(await world.kinds(call)) == ["call.failed"]


async def test_a_policy_that_breaks_denies(world: World, monkeypatch: pytest.MonkeyPatch):
    async def decide(_: object) -> Decision:
        raise RuntimeError("a fault with a secret in it: hunter2")

    monkeypatch.setattr(world.authority.policy, "decide", decide, raising=False)
    with pytest.raises(UnavailableError) as refused:
        await world.perform()
    assert "hunter2" not in str(refused.value)
    assert world.acted == []


async def test_an_act_that_fails_is_recorded_as_failed(world: World):
    async def act(*_: object) -> Outcome:
        raise UpstreamError("the upstream is dead")

    call = world.call()
    with pytest.raises(UpstreamError):
        await world.perform(call, act=act)
    assert outcomes(await world.kinds(call)) == ["call.failed"]


async def test_a_caller_that_goes_away_leaves_an_unknown_outcome(world: World):
    started = asyncio.Event()

    async def act(*_: object) -> Outcome:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    call = world.call()
    running = asyncio.create_task(world.perform(call, act=act))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert outcomes(await world.kinds(call)) == ["call.unknown"]


async def test_a_credential_is_reserved_before_it_is_issued_and_gone_after_the_call(world: World):
    world.lease_calls()
    call = world.call()
    await world.perform(call)
    (credential,) = world.credentials
    assert credential is not None
    assert world.target.live == set()
    kinds = await world.kinds(call)
    leases = [kind for kind in kinds if kind.startswith("lease.")]
    assert leases == ["lease.reserved", "lease.issued", "lease.settling", "lease.settled"]
    assert kinds.index("lease.issued") < kinds.index("call.succeeded")


async def test_a_denied_call_mints_nothing(world: World):
    world.lease_calls()
    with pytest.raises(DeniedError):
        await world.perform(world.call(id="12"))
    assert not any(kind.startswith("lease.") for kind in await world.kinds(world.call()))
    assert world.target.live == set()


async def test_a_broker_that_dies_after_minting_is_still_revoked(world: World):
    world.lease_calls()
    world.target.mint_then_fail = True
    with pytest.raises(BrokerError):
        await world.perform()
    assert world.acted == []
    assert world.target.live == set()


async def test_a_cancelled_call_leaves_no_credential(world: World):
    world.lease_calls()
    started = asyncio.Event()

    async def act(*_: object) -> Outcome:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    running = asyncio.create_task(world.perform(act=act))
    await started.wait()
    assert world.target.live
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.target.live == set()


async def test_a_target_that_cannot_revoke_is_asked_again_by_the_sweep(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.lease_calls()
    world.target.fail_revoke = True
    await world.perform()
    (lease,) = world.authority.leases.open_leases()
    assert lease.state is LeaseState.SETTLING
    assert world.target.live
    world.target.fail_revoke = False
    later = world.authority.clock() + timedelta(seconds=5)
    monkeypatch.setattr(world.authority.leases, "_clock", lambda: later)
    assert await world.authority.leases.sweep(world.authority.tasks.is_open) == 0
    assert world.target.live == set()


async def test_the_chain_of_a_finished_task_answers_every_question_and_verifies(world: World):
    from remit.app.packing import export  # noqa: PLC0415 - the app stands above the story
    from remit.proof.verify import verify_pack  # noqa: PLC0415 - as above

    await world.perform()
    with pytest.raises(DeniedError):
        await world.perform(world.call(id="12"))
    task = world.opened.task.id
    await close_task(task, TaskState.COMPLETED, "user:ada", world.authority)
    assert await world.authority.evidence.audit(task) == []
    verdict = verify_pack(await export(world.house, task), [world.authority.evidence.signer.vkey])
    assert verdict.sealed
