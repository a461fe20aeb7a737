"""A change of policy or of an agent takes back what it would not have given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from remit.model.errors import DeniedError, UnidentifiedError
from remit.model.lease import LeaseScope
from remit.model.outcome import Ending, Outcome
from remit.policy.bundle import Bundle

if TYPE_CHECKING:
    from world import World

NO = b'@id("no") @reason("no") @remedy("no") @control("x:1") forbid (principal, action, resource);'
NOTED = b"// a comment that changes the digest and nothing else\n"


def reload(world: World, extra: bytes) -> None:
    policy = world.authority.policy
    policy.replace(Bundle.of({**policy.bundle_files(), "99-extra.cedar": extra}))


async def redecided(world: World) -> None:
    await world.house.redeciding.close()


async def test_a_policy_that_would_now_deny_settles_the_credential_of_a_running_task(
    world: World,
):
    world.lease_calls(scope=LeaseScope.TASK)
    await world.perform()
    assert world.target.live
    reload(world, NO)
    await redecided(world)
    assert world.target.live == set()
    kinds = [r.kind for _, r in await world.authority.evidence.chain(world.opened.task.id)]
    assert kinds.index("lease.refused") < kinds.index("lease.settling")
    with pytest.raises(DeniedError):
        await world.perform()
    assert world.target.live == set()


async def test_a_policy_that_still_permits_leaves_the_credential_alone(world: World):
    world.lease_calls(scope=LeaseScope.TASK)
    await world.perform()
    before = set(world.target.live)
    reload(world, NOTED)
    await redecided(world)
    assert world.target.live == before
    await world.perform()
    assert world.target.live == before


async def test_a_spent_budget_is_not_held_against_a_call_twice(world: World):
    world.lease_calls(scope=LeaseScope.TASK)
    for _ in range(3):
        await world.perform()
    reload(world, NOTED)
    await redecided(world)
    assert world.target.live, "the last call of the budget was permitted"


async def test_a_call_in_flight_loses_its_credential_and_is_told_how_it_ended(world: World):
    world.lease_calls()
    acting, go = asyncio.Event(), asyncio.Event()

    async def act(*_: object) -> Outcome:
        acting.set()
        await go.wait()
        return Outcome(ending=Ending.FAILED, target="desk/read", detail="refused by the target")

    running = asyncio.create_task(world.perform(act=act))
    await acting.wait()
    reload(world, NO)
    await redecided(world)
    assert world.target.live == set(), "it is gone while the call still runs"
    go.set()
    assert (await running).ending is Ending.FAILED


@pytest.mark.parametrize("verb", ["suspend", "retire"])
async def test_an_agent_that_is_suspended_or_retired_loses_its_credentials(world: World, verb: str):
    world.lease_calls(scope=LeaseScope.TASK)
    await world.perform()
    registry = world.authority.registry
    await getattr(registry, verb)(world.agent.name, "user:ada")
    world.house.redeciding.changed()
    await redecided(world)
    assert world.target.live == set()
    with pytest.raises((DeniedError, UnidentifiedError)):
        await world.perform()


async def test_a_target_that_fails_is_left_to_the_sweep_and_the_others_are_settled(world: World):
    world.lease_calls(scope=LeaseScope.TASK)
    await world.perform()
    world.target.fail_revoke = True
    reload(world, NO)
    await redecided(world)
    (lease,) = world.authority.leases.open_leases()
    assert lease.state.value == "settling"


async def test_changes_that_come_while_it_asks_are_asked_about_again(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.lease_calls(scope=LeaseScope.TASK)
    await world.perform()
    decide, asked, go = world.authority.policy.decide, asyncio.Event(), asyncio.Event()

    async def slowly(question: object) -> object:
        asked.set()
        answer = await decide(question)  # type: ignore[arg-type] - a stand-in
        await go.wait()
        return answer

    monkeypatch.setattr(world.authority.policy, "decide", slowly)
    reload(world, NOTED)
    await asked.wait()
    reload(world, NO)
    go.set()
    await redecided(world)
    assert world.target.live == set()
