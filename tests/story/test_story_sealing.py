"""A task's end and its seal: the seal waits for credentials that will not die yet."""

from __future__ import annotations

from datetime import timedelta

import pytest
from world import World

from remit.app.packing import export
from remit.closing import close_task, seal_ended, why_unsealed
from remit.model.approval import ApprovalState
from remit.model.errors import ApprovalRequiredError, MandateError
from remit.model.lease import LeaseScope
from remit.model.subject import Person
from remit.model.task import TaskState
from remit.proof.verify import verify_pack

BOSS = Person(id="user:boss", roles=("manager",), method="test")


async def task_kinds(world: World) -> list[str]:
    chain = await world.authority.evidence.chain(world.opened.task.id)
    return [record.kind for _, record in chain]


async def test_the_seal_waits_for_a_lease_that_is_still_being_revoked(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.lease_calls(scope=LeaseScope.TASK)
    await world.perform()
    world.target.fail_revoke = True
    task, authority = world.opened.task.id, world.authority
    closed = await close_task(task, TaskState.COMPLETED, "user:ada", authority)
    assert closed.state is TaskState.COMPLETED
    assert "task.sealed" not in await task_kinds(world)
    (lease,) = authority.leases.open_leases()
    said = f"the task is not sealed yet: lease `{lease.id}` at `desk` is still being revoked"
    assert why_unsealed(task, authority) == said
    await seal_ended(authority)
    assert "task.sealed" not in await task_kinds(world)

    world.target.fail_revoke = False
    later = authority.clock() + timedelta(seconds=120)
    monkeypatch.setattr(authority.leases, "_clock", lambda: later)
    await authority.leases.sweep(authority.tasks.is_open)
    await seal_ended(authority)
    await seal_ended(authority)
    assert (await task_kinds(world)).count("task.sealed") == 1
    assert why_unsealed(task, authority) is None
    verify_pack(await export(world.house, task), ())


async def test_approvals_of_a_task_that_ended_are_expired_before_its_seal(world: World):
    with pytest.raises(ApprovalRequiredError) as asked:
        await world.perform(world.call("pay", amount=5))
    approval = asked.value.approval.id
    assert '"amount": 5' in (await world.authority.approvals.get(approval)).preview
    await close_task(world.opened.task.id, TaskState.CANCELLED, "user:ada", world.authority)
    assert (await world.authority.approvals.get(approval)).state is ApprovalState.EXPIRED
    kinds = await task_kinds(world)
    assert kinds.index("task.cancelled") < kinds.index("approval.expired")
    assert kinds[-1] == "task.sealed"
    assert list(await world.authority.evidence.audit(world.opened.task.id)) == []
    verify_pack(await export(world.house, world.opened.task.id), ())


async def test_nobody_is_asked_for_a_task_that_ended_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    decide = world.authority.policy.decide

    async def ending(*given: object) -> object:
        decision = await decide(*given)  # type: ignore[arg-type]
        await close_task(world.opened.task.id, TaskState.CANCELLED, "user:ada", world.authority)
        return decision

    monkeypatch.setattr(world.authority.policy, "decide", ending)
    with pytest.raises(MandateError):
        await world.perform(world.call("pay", amount=5))
    assert list(await world.authority.approvals.list()) == []


async def test_what_an_approval_would_do_is_erased_with_its_task_and_stands_in_no_file(
    world: World,
):
    with pytest.raises(ApprovalRequiredError) as asked:
        await world.perform(world.call("pay", amount=31.41592653))
    approval = asked.value.approval.id
    await world.authority.evidence.barrier()
    for path in sorted(world.house.loaded.state.glob("remit.db*")):
        assert b"31.41592653" not in path.read_bytes(), path
    assert "31.41592653" in (await world.authority.approvals.get(approval)).preview
    await world.authority.approvals.deny(approval, BOSS)
    await world.authority.evidence.erase_task(world.opened.task.id, "user:ada")
    assert (await world.authority.approvals.get(approval)).preview == ""
