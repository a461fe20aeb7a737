"""A part of a task in another agent's hands: held to both mandates, and over when either is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import world as worlds

from remit.app.compose import compose
from remit.app.config import load
from remit.app.packing import export
from remit.approvals.desk import NotEligibleError
from remit.closing import close_task
from remit.model.approval import ApprovalState
from remit.model.call import Call
from remit.model.errors import (
    ApprovalRequiredError,
    DeniedError,
    MandateError,
    RemitError,
    UnidentifiedError,
)
from remit.model.label import Confidentiality, Label
from remit.model.lease import LeaseScope
from remit.model.outcome import Ending, Outcome
from remit.model.subject import Agent, AgentState, Environment, Person
from remit.model.task import TaskState
from remit.policy.facts import Facts
from remit.proof.verify import verify_pack
from remit.tasks.request import Opened, TaskRequest

if TYPE_CHECKING:
    from world import World

ROOMY = worlds.TEMPLATE.replace("calls = 3", "calls = 60")
SEEDS = 60


async def part(world: World, of: Opened, to: Agent, **keys: Any) -> Opened:
    request = TaskRequest.parse({"template": "help", **keys})
    by = str(of.task.mandate.workload)
    return await world.authority.tasks.delegate(request, parent=of.task.id, agent=to, opened_by=by)


def by(world: World, agent: Agent, opened: Opened) -> Any:
    return world.claim(bearer=world.svid(agent), task_token=opened.token)


async def kinds(world: World, opened: Opened) -> list[str]:
    return [r.kind for _, r in await world.authority.evidence.chain(opened.task.id)]


async def test_a_call_of_a_delegated_task_and_the_end_of_its_root(world: World):
    world.lease_calls(scope=LeaseScope.TASK)
    reader = await world.register("reader")
    child = await part(world, world.opened, reader)

    await world.perform(claim=by(world, reader, child))
    await world.perform()
    assert len(world.target.live) == 2, "each task has a credential of its own"
    lease = world.target.seen[0].lease
    assert (lease.task, world.target.seen[0].workload) == (child.task.id, str(reader.spiffe_id))

    await close_task(world.opened.task.id, TaskState.COMPLETED, "user:ada", world.authority)

    assert world.target.live == set()
    assert (await kinds(world, child))[-4:] == [
        "task.cancelled",
        "lease.settling",
        "lease.settled",
        "task.sealed",
    ]
    assert (await kinds(world, world.opened))[-1] == "task.sealed"
    vkey = world.authority.evidence.signer.vkey
    verdict = verify_pack(await export(world.house, child.task.id), [vkey])
    assert any("delegated it" in sentence for sentence in verdict.proves)
    verdict = verify_pack(await export(world.house, world.opened.task.id), [vkey])
    assert any(child.task.id in sentence for sentence in verdict.does_not_prove)
    for opened in (child, world.opened):
        assert await world.authority.evidence.audit(opened.task.id) == []


async def test_policy_is_told_how_deep_and_by_whom(world: World):
    reader = await world.register("reader")
    child = await part(world, world.opened, reader)
    call = world.call()
    await world.perform(call, claim=by(world, reader, child))

    (decided,) = [
        r for _, r in await world.authority.evidence.find(call.id) if r.kind == "call.decided"
    ]
    sealed = await world.authority.evidence.open_payload(decided.id, "facts")
    assert sealed is not None
    mandate = Facts.read(sealed.data).context["mandate"]
    assert (mandate["delegated"], mandate["depth"]) == (True, 1)
    assert mandate["delegated_by"] == str(world.agent.spiffe_id)

    await world.authority.registry.update("reader", by="user:ada", max_depth=0)
    with pytest.raises(DeniedError, match="delegated_too_deep"):
        await world.perform(claim=by(world, reader, child))


async def test_what_the_root_may_not_the_part_may_not_whatever_it_was_given(world: World):
    narrow = await world.authority.tasks.open(
        TaskRequest.parse({"template": "help", "capability": [{"tool": "desk/read", "args": {"id": {"const": "7"}}}]}),
        agent=world.agent,
        opened_by="user:ada",
    )  # fmt: skip
    reader = await world.register("reader")
    child = await part(world, narrow, reader)
    claim = by(world, reader, child)

    with pytest.raises(DeniedError, match="argument_out_of_bounds"):
        await world.perform(world.call(id="88"), claim=claim)
    with pytest.raises(DeniedError, match="outside_mandate"):
        await world.perform(world.call("pay", amount=1), claim=claim)
    assert world.acted == []


async def test_children_and_parent_have_one_budget(world: World):
    reader = await world.register("reader")
    child = await part(world, world.opened, reader)
    for _ in range(2):
        await world.perform(claim=by(world, reader, child))
    await world.perform()

    for claim in (by(world, reader, child), None):
        with pytest.raises(DeniedError, match="budget_spent"):
            await world.perform(claim=claim)
    assert len(world.acted) == 3


async def test_what_a_part_has_read_its_parent_holds(world: World):
    reader = await world.register("reader")
    child = await part(world, world.opened, reader)

    async def reading(*_: object) -> Outcome:
        label = Label(Confidentiality.CONFIDENTIAL)
        return Outcome(ending=Ending.SUCCEEDED, target="desk/read", label=label)

    await world.perform(claim=by(world, reader, child), act=reading)

    with pytest.raises(DeniedError, match="above_data_ceiling"):
        await world.perform()


async def test_nobody_approves_a_part_of_what_they_opened(world: World):
    root = await world.authority.tasks.open(
        TaskRequest(template="help"), agent=world.agent, opened_by="user:bob"
    )
    payer = await world.register("payer")
    child = await part(world, root, payer)
    call = world.call("pay", amount=5)
    with pytest.raises(ApprovalRequiredError) as asked:
        await world.perform(call, claim=by(world, payer, child))

    approvals = world.authority.approvals
    for name in ("user:ada", "user:bob"):
        person = Person(id=name, method="oidc", roles=("manager",))
        with pytest.raises(NotEligibleError):
            await approvals.approve(asked.value.approval.id, person)
    cleo = Person(id="user:cleo", method="oidc", roles=("manager",))
    await approvals.approve(asked.value.approval.id, cleo)
    again = world.call("pay", amount=5)
    await world.perform(again, claim=by(world, payer, child))


async def test_a_suspended_delegator_takes_back_what_runs_below_it(world: World):
    world.lease_calls(scope=LeaseScope.TASK)
    reader = await world.register("reader")
    child = await part(world, world.opened, reader)
    claim = by(world, reader, child)
    await world.perform(claim=claim)

    await world.authority.registry.suspend("helper", "user:ada")
    with pytest.raises(MandateError, match="`helper`, which is suspended"):
        await world.perform(claim=claim)
    world.house.redeciding.changed()
    await world.house.redeciding.close()

    assert world.target.live == set()
    ended = await world.authority.tasks.get(child.task.id)
    assert (ended.state, ended.ended_with) == (TaskState.CANCELLED, world.opened.task.id)
    assert (await kinds(world, child))[-1] == "task.sealed"
    with pytest.raises(UnidentifiedError):
        await world.perform()
    await world.authority.registry.resume("helper", "user:ada")
    with pytest.raises(MandateError, match="cancelled"):
        await world.perform(claim=claim)
    await world.perform()


async def test_a_start_ends_what_lost_its_parent_in_a_crash(world: World, tmp_path: Path):
    reader, third = await world.register("reader"), await world.register("third")
    child = await part(world, world.opened, reader)
    grandchild = await part(world, child, third)
    tasks = world.authority.tasks
    # The parent's end is all that was written.
    tasks._open[world.opened.task.id].below.clear()
    tasks._open[child.task.id].above = ()
    await tasks.close(world.opened.task.id, TaskState.EXPIRED, "remit")
    await world.house.close()

    house = await compose(load(tmp_path / "remit.toml"))
    try:
        for opened in (child, grandchild):
            ended = await house.authority.tasks.get(opened.task.id)
            assert (ended.state, ended.ended_with) == (TaskState.EXPIRED, world.opened.task.id)
            records = [r.kind for _, r in await house.authority.evidence.chain(opened.task.id)]
            assert records[-2:] == ["task.expired", "task.sealed"]
    finally:
        await house.close()


@pytest.mark.parametrize("turns", [1, 4, 12])
async def test_who_ends_a_tree_may_go_away_meanwhile(world: World, turns: int):
    """An agent completes its task with the gateway's own tool, and leaves: that cancels the request."""
    world.lease_calls(scope=LeaseScope.TASK)
    payer = await world.register("payer")
    child = await part(world, world.opened, payer)
    await world.perform(claim=by(world, payer, child))
    with pytest.raises(ApprovalRequiredError) as asked:
        await world.perform(world.call("pay", amount=5), claim=by(world, payer, child))

    ending = asyncio.create_task(
        close_task(world.opened.task.id, TaskState.COMPLETED, "user:ada", world.authority)
    )
    for _ in range(turns):
        await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending

    async with asyncio.timeout(10):
        for opened in (child, world.opened):
            while (await kinds(world, opened))[-1] != "task.sealed":  # noqa: ASYNC110 - it goes on by itself
                await asyncio.sleep(0.01)
    assert world.target.live == set()
    approval = await world.authority.approvals.get(asked.value.approval.id)
    assert approval.state is ApprovalState.EXPIRED


async def test_what_changes_while_a_call_is_read_holds_for_that_call(world: World):
    reader = await world.register("reader")
    child = await part(world, world.opened, reader)
    claim, tasks = by(world, reader, child), world.authority.tasks
    (template,) = tasks.templates.values()

    async def narrowed(call: Call) -> Call:
        tasks.replace_templates({"help": replace(template, environments=(Environment.PROD,))})
        return call

    with pytest.raises(DeniedError, match="wrong_environment"):
        await world.perform(claim=claim, understand=narrowed)
    tasks.replace_templates({"help": template})

    async def suspended(call: Call) -> Call:
        await world.authority.registry.suspend("reader", "user:ada")
        return call

    with pytest.raises(MandateError, match="`reader`, which is suspended"):
        await world.perform(claim=claim, understand=suspended)
    assert world.acted == []


async def test_an_agent_that_is_suspended_before_its_call_acts_does_not_act(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    reader = await world.register("reader")
    child = await part(world, world.opened, reader)
    take = world.authority.tasks.spend

    def spend(*args: Any) -> None:
        take(*args)  # and then the records become durable, which takes a while
        held = world.authority.registry._agents
        held["reader"] = replace(held["reader"], state=AgentState.SUSPENDED)

    monkeypatch.setattr(world.authority.tasks, "spend", spend)
    with pytest.raises(MandateError, match="`reader`, which is suspended"):
        await world.perform(claim=by(world, reader, child))
    assert world.acted == []


# --- races


async def _after(turns: int, work: Callable[[], Awaitable[Any]], seconds: float = 0) -> Any:
    for _ in range(turns):
        await asyncio.sleep(0)
    if seconds:
        await asyncio.sleep(seconds)
    return await work()


@pytest.mark.parametrize("scope", [LeaseScope.CALL, LeaseScope.TASK])
async def test_calls_and_delegations_that_race_the_end_of_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: LeaseScope
):
    """Nothing below acts once its lease is over, and nothing below outlives the end."""
    monkeypatch.setattr(worlds, "TEMPLATE", ROOMY)
    seen: set[str] = set()
    async with worlds.standing(tmp_path) as world:
        world.lease_calls(scope=scope)
        reader, third, fourth = [await world.register(n) for n in ("reader", "third", "fourth")]
        wrong: list[str] = []

        async def act(call: Any, _: Any, credential: Any) -> Outcome:
            if not world.target.accepts(credential.values):
                wrong.append("a call acted with a credential that was taken back")
            return Outcome(ending=Ending.SUCCEEDED, target=call.target)

        for seed in range(SEEDS):
            chance = random.Random(seed)
            world.authority.tasks._endings._wait_seconds = chance.choice([0.0, 10.0])
            root = await world.open()
            child = await part(world, root, reader)
            grandchild = await part(world, child, third)
            late: list[Opened] = []

            async def delegating(of: Opened, into: list[Opened] = late) -> None:
                made = await part(world, of, fourth)
                into.append(made)
                await world.perform(claim=by(world, fourth, made), act=act)

            def ending(of: Opened = root) -> Awaitable[Any]:
                return close_task(of.task.id, TaskState.COMPLETED, "user:ada", world.authority)

            def calling(who: Agent, under: Opened) -> Awaitable[Any]:
                return world.perform(claim=by(world, who, under), act=act)

            *others, closed = await asyncio.gather(
                _after(chance.randrange(60), lambda c=child: calling(reader, c)),
                _after(chance.randrange(60), lambda g=grandchild: calling(third, g)),
                _after(chance.randrange(60), lambda g=grandchild: delegating(g)),
                _after(chance.randrange(60), lambda r=root: delegating(r)),
                _after(chance.randrange(60), ending, chance.choice([0, 0.05 * chance.random()])),
                return_exceptions=True,
            )
            assert not isinstance(closed, BaseException), closed
            for each in others:
                assert not isinstance(each, BaseException) or isinstance(each, RemitError), each
                seen.add(type(each).__name__)
            assert world.target.live == set(), seed
            assert world.authority.leases.open_leases() == ()
            assert await world.authority.tasks.list(state=TaskState.OPEN, agent="fourth") == []
            for opened in (root, child, grandchild, *late):
                told = await kinds(world, opened)
                assert len([k for k in told if k in {"task.completed", "task.cancelled"}]) == 1
                assert told.count("task.sealed") == 1
        assert wrong == []
    # The schedules were apart enough: some were done, some came too late to be admitted.
    assert {"Outcome", "NoneType", "MandateError"} <= seen
