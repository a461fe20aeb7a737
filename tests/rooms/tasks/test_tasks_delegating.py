"""Delegated tasks: authority only narrows, budgets are everybody's, and one end ends all below."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from remit.model.errors import ConflictError, EvidenceError, InputError, MandateError
from remit.model.label import Confidentiality, Label
from remit.model.mandate import Parent
from remit.model.subject import AgentState, SpiffeId
from remit.model.task import Task, TaskState
from remit.tasks.mandates import MANDATE_TYP, digest_of, from_claims, to_claims
from remit.tasks.request import Opened
from remit.tasks.templates import parse_template

if TYPE_CHECKING:
    from conftest import House

ANN = "user:ann@corp.example"
READ = {"tool": "crm/get_customer"}
REFUND = {
    "tool": "payments/refund",
    "args": {"order": {"const": "1234"}, "amount": {"maximum": 40}},
}


async def admitted(house: House, opened: Opened) -> Task:
    return await house.admit(opened.token, opened.task.mandate.workload)


@asynccontextmanager
async def held_up(house: House, *, lost: int = 0) -> AsyncIterator[asyncio.Event]:
    """Every barrier waits until the event is set; the first ``lost`` of them lose what was staged."""
    go, durable, left = asyncio.Event(), house.recorder.barrier, [lost]

    async def barrier() -> None:
        await go.wait()
        house.recorder.fail, left[0] = left[0] > 0, left[0] - 1
        await durable()

    house.recorder.barrier = barrier  # type: ignore[method-assign]
    try:
        yield go
    finally:
        go.set()
        house.recorder.barrier = durable  # type: ignore[method-assign]


# --- what is delegated


async def test_a_delegated_task_names_its_parent_the_delegator_and_for_whom_the_root_runs(
    house: House,
) -> None:
    root = await house.open(on_behalf_of="user:carl@corp.example")
    reader = house.register("reader")

    child = await house.delegate(root.task, reader, capability=[READ], purpose="Look up 88")

    mandate = child.task.mandate
    assert mandate.parent == Parent(
        task=root.task.id, mandate=root.task.mandate_digest, workload=house.agent.spiffe_id
    )
    assert (mandate.agent, mandate.workload) == ("reader", reader.spiffe_id)
    assert mandate.on_behalf_of == "user:carl@corp.example"
    assert mandate.opened_by == str(house.agent.spiffe_id)
    claims = house.signer.verify(child.task.signed_mandate, typ=MANDATE_TYP)
    assert from_claims(claims) == mandate
    task = await admitted(house, child)
    assert [each.id for each in task.chain] == [child.task.id, root.task.id]


async def test_both_chains_say_that_it_was_delegated_and_the_childs_follows_from_the_parents(
    house: House,
) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("reader"), capability=[READ])

    (_, _), (handed, above), (opened, below) = house.recorder.records
    assert (handed.kind, above.task) == ("task.delegated", root.task.id)
    assert handed.body["child"] == child.task.id
    assert handed.body["child_mandate"] == child.task.mandate_digest
    assert (opened.kind, below.task) == ("task.opened", child.task.id)
    assert opened.body["parent"] == root.task.id
    assert below.parents == ("rec_00000000000000000000000002",)
    assert house.recorder.durable == 3


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"capability": [READ, {"tool": "payments/void"}]}, "does not allow `payments/void`"),
        ({"capability": [{"resource": "files/file:///data/*"}]}, "does not allow `files/"),
        ({"environments": ["staging"]}, "environments"),
        ({"egress": ["payments.corp.example"]}, "egress"),
        ({"on_behalf_of": "user:ceo@corp.example"}, "on behalf of"),
        ({"parent": "task_of_somebody_else"}, "is not a key here"),
    ],
)
async def test_what_the_parent_does_not_have_is_not_delegated(
    house: House, keys: dict[str, Any], said: str
) -> None:
    root = await house.open(capability=[READ, REFUND], environments=["dev"], egress=[])
    before = list(house.recorder.records)

    with pytest.raises((InputError, MandateError), match=said):
        await house.delegate(root.task, house.register("reader"), **keys)

    assert house.recorder.records == before
    assert house.desk.open_count == 1


async def test_a_request_that_leaves_everything_out_gets_no_more_than_the_parent_has(
    house: House,
) -> None:
    root = await house.open(
        capability=[READ], environments=["dev"], egress=[], data_ceiling="internal"
    )
    child = await house.delegate(root.task, house.register("reader"))

    mandate = child.task.mandate
    assert [each.target for each in mandate.capabilities] == ["crm/get_customer"]
    assert [each.value for each in mandate.environments] == ["dev"]
    assert mandate.egress == ()
    assert mandate.data_ceiling is Confidentiality.INTERNAL


async def test_a_wider_argument_schema_is_of_no_use(house: House) -> None:
    root = await house.open(capability=[REFUND])
    wide = {"tool": "payments/refund", "args": {"order": True, "amount": True}}
    child = await house.delegate(root.task, house.register("payer"), capability=[wide])
    task = await admitted(house, child)

    within = house.desk.measure(task, house.call("payments/refund", {"order": "1234", "amount": 9}))
    assert within.violations == ()
    for arguments in ({"order": "1234", "amount": 41}, {"order": "9", "amount": 1}):
        beyond = house.desk.measure(task, house.call("payments/refund", arguments))
        assert beyond.violations, arguments
        assert beyond.in_mandate


async def test_a_tool_that_only_the_child_was_given_is_in_no_mandate(house: House) -> None:
    """Were the check at the opening wrong, the check of every call would still hold."""
    root = await house.open(capability=[READ])
    reader = house.register("reader")
    child = await house.delegate(root.task, reader, capability=[READ])
    live = house.desk._open[child.task.id]
    wide = (await house.open()).task.mandate.capabilities
    live.task = replace(live.task, mandate=replace(live.task.mandate, capabilities=wide))

    task = await admitted(house, child)
    measured = house.desk.measure(task, house.call("payments/void", {"order": "1234"}))

    assert not measured.in_mandate
    assert measured.in_template


async def test_a_template_that_narrows_the_parent_narrows_the_child_at_once(house: House) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("reader"), capability=[READ])
    narrow = b'purpose = "p"\n[[capability]]\ntool = "payments/refund"\n'
    # Only the parent's own template: the child keeps the one that it was opened under.
    house.desk._open[root.task.id].task = replace(
        root.task, template=parse_template("t.toml", narrow)
    )

    task = await admitted(house, child)
    assert not house.desk.measure(task, house.call("crm/get_customer", {"id": "88"})).in_template


async def test_it_expires_with_its_parent_at_the_latest(house: House) -> None:
    root = await house.open(expires_seconds=100)
    house.clock.move(40)
    child = await house.delegate(root.task, house.register("reader"), expires_seconds=1800)

    assert child.task.mandate.expires_at == root.task.mandate.expires_at
    house.clock.move(60)
    with pytest.raises(MandateError, match="expired"):
        await admitted(house, child)
    assert house.desk.due(house.clock()) == [root.task.id], "the child ends with it"


async def test_an_approval_that_the_parent_wants_is_wanted_of_the_child(house: House) -> None:
    root = await house.open(capability=[{**READ, "args": {"id": True}, "approval": "manager"}])
    child = await house.delegate(
        root.task, house.register("reader"), capability=[{**READ, "args": {"id": True}}]
    )
    task = await admitted(house, child)
    call = house.call("crm/get_customer", {"id": "88"})

    assert house.desk.measure(task, call).approval_role == "manager"


async def test_two_roles_in_one_chain_are_refused_since_no_one_approval_does_for_both(
    house: House,
) -> None:
    root = await house.open(capability=[{**READ, "args": {"id": True}, "approval": "manager"}])
    child = await house.delegate(
        root.task,
        house.register("reader"),
        capability=[{**READ, "args": {"id": True}, "approval": "auditor"}],
    )
    task = await admitted(house, child)

    measured = house.desk.measure(task, house.call("crm/get_customer", {"id": "88"}))
    assert "no one approval would do" in " ".join(measured.violations)


# --- to whom, and how far


async def test_nobody_delegates_to_themselves_or_back_up_the_chain(house: House) -> None:
    root = await house.open()
    second, third = house.register("two"), house.register("three")
    child = await house.delegate(root.task, second)
    grandchild = await house.delegate(child.task, third)

    for parent, agent in (
        (root.task, house.agent),
        (child.task, second),
        (child.task, house.agent),
        (grandchild.task, second),
        (grandchild.task, house.agent),
    ):
        with pytest.raises(MandateError, match="is in the chain already"):
            await house.delegate(parent, agent)


async def test_a_chain_has_an_end(house: House) -> None:
    house.max_depth = 2
    house.desk = house.another_desk()
    task = (await house.open()).task
    for name in ("two", "three"):
        task = (await house.delegate(task, house.register(name))).task

    with pytest.raises(MandateError, match="2 delegations"):
        await house.delegate(task, house.register("four"))


async def test_no_task_has_more_than_its_share_of_open_tasks_below_it(house: House) -> None:
    house.max_below = 3
    house.desk = house.another_desk()
    root = await house.open()
    first = await house.delegate(root.task, house.register("a"))
    second = await house.delegate(first.task, house.register("b"))
    await house.delegate(first.task, house.register("c"))

    for parent, name in ((root.task, "d"), (second.task, "e")):
        with pytest.raises(ConflictError, match="3 open tasks below"):
            await house.delegate(parent, house.register(name))
    await house.desk.close(second.task.id, TaskState.COMPLETED, "b")
    await house.delegate(root.task, house.register("f"))


async def test_the_delegate_has_to_be_registered_for_the_template_and_active(house: House) -> None:
    root = await house.open()
    reader = house.register("reader")
    with pytest.raises(MandateError, match="may not act under template"):
        await house.delegate(root.task, replace(reader, templates=()))
    with pytest.raises(MandateError, match="suspended"):
        await house.delegate(root.task, replace(reader, state=AgentState.SUSPENDED))


async def test_nothing_is_delegated_of_a_task_that_has_ended_or_is_not_there(house: House) -> None:
    root = await house.open(expires_seconds=60)
    other = await house.open()
    reader = house.register("reader")
    await house.desk.close(other.task.id, TaskState.COMPLETED, ANN)
    house.clock.move(60)

    for task in (root.task, other.task, replace(root.task, mandate=replace(root.task.mandate, id="task_x"))):  # fmt: skip
        with pytest.raises(MandateError):
            await house.delegate(task, reader)


async def test_a_suspended_delegator_delegates_nothing_and_what_it_delegated_admits_nothing(
    house: House,
) -> None:
    root = await house.open()
    second = house.register("two")
    child = await house.delegate(root.task, second)
    grandchild = await house.delegate(child.task, house.register("three"))
    call = house.call("crm/get_customer", {"id": "88"})

    house.agents.put(replace(second, state=AgentState.SUSPENDED))

    with pytest.raises(MandateError, match="`two`, which is suspended"):
        await admitted(house, grandchild)
    with pytest.raises(MandateError, match="suspended"):
        house.desk.spend(grandchild.task.id, call)
    with pytest.raises(MandateError, match="suspended"):
        house.desk.require_open(grandchild.task.id)
    with pytest.raises(MandateError, match="suspended"):
        await house.delegate(child.task, house.register("four"))
    assert house.desk.disowned() == [(grandchild.task.id, child.task.id)]
    assert (await admitted(house, root)).id == root.task.id


async def test_neither_token_is_of_use_to_the_other_workload(house: House) -> None:
    root = await house.open()
    reader = house.register("reader")
    child = await house.delegate(root.task, reader)

    with pytest.raises(MandateError, match="issued to another workload"):
        await house.admit(root.token, reader.spiffe_id)
    with pytest.raises(MandateError, match="issued to another workload"):
        await house.admit(child.token, house.agent.spiffe_id)


async def test_the_parents_key_is_not_the_childs(house: House) -> None:
    root = await house.open()
    subject = replace(house.subject(), key="k" * 43)
    await house.desk.admit(house.claim(root.token), subject)
    child = await house.delegate(root.task, house.register("reader"))

    assert (await house.desk.get(root.task.id)).key == "k" * 43
    assert child.task.key is None


# --- budgets


async def test_what_a_child_spends_is_spent_by_every_task_above_it(house: House) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("two"))
    grandchild = await house.delegate(child.task, house.register("three"))
    call = house.call("payments/refund", {"order": "1", "amount": 30})

    house.desk.spend(grandchild.task.id, call)
    house.desk.settle(grandchild.task.id, call, seconds=7, label=Label())

    for task in (root, child, grandchild):
        spent = (await house.desk.get(task.task.id)).spent
        assert (spent.calls, spent.seconds, spent.amounts) == (1, 7, {"usd": Decimal(30)})
        kept = await house.store.get(task.task.id)
        assert kept is not None
        assert kept.spent == spent


async def test_a_child_exhausts_its_parents_budget_and_a_parent_its_childs(house: House) -> None:
    root = await house.open(budget={"calls": 3})
    child = await house.delegate(root.task, house.register("reader"), budget={"calls": 2})
    call = house.call("crm/get_customer", {"id": "88"})
    for _ in range(2):
        house.desk.spend(child.task.id, house.call("crm/get_customer"))

    task = await admitted(house, child)
    assert house.desk.measure(task, call).exhausted == ("calls",)
    with pytest.raises(MandateError, match="budget is spent"):
        house.desk.spend(child.task.id, call)
    assert (await house.desk.get(root.task.id)).spent.calls == 2, "nothing is taken in part"

    house.desk.spend(root.task.id, call)
    with pytest.raises(MandateError, match="budget is spent"):
        house.desk.spend(root.task.id, house.call("crm/get_customer"))


async def test_the_parents_rest_is_all_that_its_children_have(house: House) -> None:
    root = await house.open(budget={"calls": 5, "amount": {"usd": 50}})
    one = await house.delegate(root.task, house.register("first"))
    two = await house.delegate(root.task, house.register("two"))
    house.desk.spend(one.task.id, house.call("payments/refund", {"order": "1", "amount": 30}))
    more = house.call("payments/refund", {"order": "1", "amount": 30})

    task = await admitted(house, two)
    measured = house.desk.measure(task, more)
    assert measured.exhausted == ("usd",)
    assert measured.calls_left == 4
    with pytest.raises(MandateError, match="usd"):
        house.desk.spend(two.task.id, more)
    assert (await house.desk.get(two.task.id)).spent.calls == 0


async def test_seconds_of_calls_in_flight_below_count_for_the_parent(house: House) -> None:
    root = await house.open(budget={"seconds": 10})
    child = await house.delegate(root.task, house.register("reader"))
    house.desk.spend(child.task.id, house.call("crm/get_customer"))
    house.clock.move(10)

    with pytest.raises(MandateError, match="seconds"):
        house.desk.spend(root.task.id, house.call("crm/get_customer"))


# --- labels


async def test_what_one_task_reads_every_task_of_its_chain_holds(house: House) -> None:
    root = await house.open()
    one = await house.delegate(root.task, house.register("first"))
    two = await house.delegate(root.task, house.register("two"))
    read = Label(Confidentiality.CONFIDENTIAL, trusted=False, categories=frozenset({"pii"}))
    call = house.call("crm/get_customer")
    house.desk.spend(one.task.id, call)

    house.desk.settle(one.task.id, call, seconds=1, label=read)

    assert (await house.desk.get(root.task.id)).label == read
    assert (await admitted(house, one)).held == read
    assert (await admitted(house, two)).held == read, "its parent has it, and may tell it"
    late = await house.delegate(root.task, house.register("three"))
    assert (await admitted(house, late)).held == read


# --- ends


@pytest.mark.parametrize(
    ("state", "below"),
    [
        (TaskState.COMPLETED, TaskState.CANCELLED),
        (TaskState.CANCELLED, TaskState.CANCELLED),
        (TaskState.EXPIRED, TaskState.EXPIRED),
    ],
)
async def test_the_end_of_a_task_ends_every_task_below_it_and_says_why(
    house: House, state: TaskState, below: TaskState
) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("two"))
    grandchild = await house.delegate(child.task, house.register("three"))
    sibling = await house.open()
    before = len(house.recorder.records)

    ended = await house.desk.close_tree(root.task.id, state, ANN)

    assert [each.id for each in ended] == [grandchild.task.id, child.task.id, root.task.id]
    said = [
        (step.kind, context.task, step.body["ended_with"], step.body["closed_by"])
        for step, context in house.recorder.records[before:]
    ]
    assert said == [
        (f"task.{below.value}", grandchild.task.id, root.task.id, ANN),
        (f"task.{below.value}", child.task.id, root.task.id, ANN),
        (f"task.{state.value}", root.task.id, None, ANN),
    ]
    assert house.recorder.durable == len(house.recorder.records)
    for each in ended:
        assert await house.store.get(each.id) == each
        assert not house.desk.is_open(each.id)
    with pytest.raises(MandateError, match=below.value):
        await admitted(house, grandchild)
    assert house.desk.is_open(sibling.task.id)


async def test_the_end_of_a_child_is_not_its_parents(house: House) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("two"))
    grandchild = await house.delegate(child.task, house.register("three"))

    await house.desk.close(child.task.id, TaskState.COMPLETED, "two")

    assert house.desk.is_open(root.task.id)
    assert not house.desk.is_open(grandchild.task.id)
    assert (await admitted(house, root)).above == ()


async def test_nothing_below_is_admitted_from_the_first_line_of_the_end_on(house: House) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("reader"))
    running = house.call("crm/get_customer")
    house.desk.spend(child.task.id, running)

    async with held_up(house) as go:
        ending = asyncio.create_task(house.desk.close(root.task.id, TaskState.COMPLETED, ANN))
        await asyncio.sleep(0)
        assert not house.desk.is_open(child.task.id)
        with pytest.raises(MandateError):
            await admitted(house, child)
        with pytest.raises(MandateError):
            house.desk.require_open(child.task.id)
        with pytest.raises(MandateError):
            house.desk.spend(child.task.id, house.call("crm/get_customer"))
        with pytest.raises(MandateError):
            await house.delegate(root.task, house.register("late"))
        with pytest.raises(MandateError):
            await house.delegate(child.task, house.register("later"))
        house.desk.settle(child.task.id, running, seconds=3, label=Label())
        go.set()
        assert (await ending).spent.seconds == 3, "the end waited for the call below"


async def test_a_delegation_that_races_the_end_of_its_parent_is_ended_with_it(
    house: House,
) -> None:
    root = await house.open()
    reader = house.register("reader")

    async with held_up(house) as go:
        delegating = asyncio.create_task(house.delegate(root.task, reader))
        await asyncio.sleep(0)
        ending = asyncio.create_task(house.desk.close_tree(root.task.id, TaskState.CANCELLED, ANN))
        await asyncio.sleep(0)
        go.set()
        ended = await ending
        with pytest.raises(MandateError, match="ended while"):
            await delegating

    assert house.recorder.kinds == [
        "task.opened",
        "task.delegated",
        "task.opened",
        "task.cancelled",
        "task.cancelled",
    ]
    assert len(ended) == 2
    assert house.desk.open_count == 0
    assert await house.desk.list(state=TaskState.OPEN) == []


async def test_a_delegation_that_was_lost_leaves_nothing_and_its_parent_open(house: House) -> None:
    root = await house.open()
    house.recorder.fail = True
    with pytest.raises(EvidenceError):
        await house.delegate(root.task, house.register("reader"))
    house.recorder.fail = False

    assert house.desk.open_count == 1
    ended = await house.desk.close_tree(root.task.id, TaskState.COMPLETED, ANN)
    assert [each.id for each in ended] == [root.task.id]
    assert house.recorder.kinds == ["task.opened", "task.completed"]


async def test_an_end_that_raced_a_delegation_that_was_lost_says_nothing_of_it(
    house: House,
) -> None:
    root = await house.open()
    async with held_up(house, lost=1) as go:
        delegating = asyncio.create_task(house.delegate(root.task, house.register("reader")))
        await asyncio.sleep(0)
        ending = asyncio.create_task(house.desk.close(root.task.id, TaskState.COMPLETED, ANN))
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(EvidenceError):
            await delegating
        await ending

    assert house.recorder.kinds == ["task.opened", "task.completed"]
    assert house.desk.open_count == 0


async def test_an_end_that_could_not_be_recorded_can_be_repeated_and_is_said_once_a_task(
    house: House,
) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("reader"))
    house.recorder.fail = True
    with pytest.raises(EvidenceError):
        await house.desk.close(root.task.id, TaskState.COMPLETED, ANN)
    assert not house.desk.is_open(child.task.id)
    house.recorder.fail = False

    await house.desk.close(root.task.id, TaskState.COMPLETED, ANN)

    assert house.recorder.kinds[-2:] == ["task.cancelled", "task.completed"]
    assert house.recorder.kinds.count("task.cancelled") == 1


async def test_a_child_that_ends_by_itself_as_its_parent_ends_is_said_once(house: House) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("reader"))

    async with held_up(house) as go:
        own = asyncio.create_task(house.desk.close(child.task.id, TaskState.COMPLETED, "reader"))
        await asyncio.sleep(0)
        ending = asyncio.create_task(house.desk.close(root.task.id, TaskState.COMPLETED, ANN))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(own, ending)

    assert house.recorder.kinds[-2:] == ["task.completed", "task.completed"]
    assert house.recorder.kinds.count("task.cancelled") == 0


async def test_a_child_whose_own_end_was_lost_as_its_parent_ends_is_ended_with_it(
    house: House,
) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("reader"))

    async with held_up(house, lost=1) as go:
        own = asyncio.create_task(house.desk.close(child.task.id, TaskState.COMPLETED, "reader"))
        await asyncio.sleep(0)
        ending = asyncio.create_task(house.desk.close_tree(root.task.id, TaskState.COMPLETED, ANN))
        await asyncio.sleep(0)
        with pytest.raises(ConflictError, match="being closed"):
            await house.desk.close(child.task.id, TaskState.CANCELLED, ANN)
        go.set()
        with pytest.raises(EvidenceError):
            await own
        ended = await ending

    assert [(each.id, each.ended_with) for each in ended] == [
        (child.task.id, root.task.id),
        (root.task.id, None),
    ]
    assert house.recorder.kinds[-2:] == ["task.cancelled", "task.completed"]
    assert house.desk.open_count == 0


async def test_a_late_answer_below_is_counted_in_every_task_and_opens_none(house: House) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("reader"))
    call = house.call("crm/get_customer")
    house.desk.spend(child.task.id, call)

    await house.desk.close(root.task.id, TaskState.COMPLETED, ANN)
    house.desk.settle(child.task.id, call, seconds=9, label=Label(trusted=False))

    for task in (root, child):
        kept = await house.store.get(task.task.id)
        assert kept is not None
        assert kept.state is not TaskState.OPEN
        assert kept.spent.seconds == 9
        assert not kept.label.trusted


# --- after a start


async def after_a_start(house: House) -> None:
    house.desk = house.another_desk()
    await house.desk.load()


async def test_a_chain_goes_on_after_a_start(house: House) -> None:
    root = await house.open(budget={"calls": 2})
    child = await house.delegate(root.task, house.register("two"))
    grandchild = await house.delegate(child.task, house.register("three"))
    await after_a_start(house)

    task = await admitted(house, grandchild)
    assert [each.id for each in task.above] == [child.task.id, root.task.id]
    house.desk.spend(grandchild.task.id, house.call("crm/get_customer"))
    assert (await house.desk.get(root.task.id)).spent.calls == 1
    ended = await house.desk.close_tree(root.task.id, TaskState.COMPLETED, ANN)
    assert len(ended) == 3


async def test_a_child_whose_parents_end_was_all_that_got_written_admits_nothing_after_the_start(
    house: House,
) -> None:
    root = await house.open()
    child = await house.delegate(root.task, house.register("two"))
    grandchild = await house.delegate(child.task, house.register("three"))
    house.store.put(replace(root.task, state=TaskState.EXPIRED))
    await after_a_start(house)

    for each in (child, grandchild):
        assert not house.desk.is_open(each.task.id)
        with pytest.raises(MandateError):
            await admitted(house, each)
    assert house.desk.disowned() == [(child.task.id, root.task.id)]
    ended = await house.desk.close_tree(
        child.task.id, TaskState.EXPIRED, "remit", ended_with=root.task.id
    )
    assert [each.ended_with for each in ended] == [root.task.id] * 2


@pytest.mark.parametrize("forged", ["mandate", "task", "workload", "on_behalf_of", "wider"])
async def test_a_stored_mandate_that_names_a_parent_falsely_admits_nothing(
    house: House, forged: str
) -> None:
    root, other = await house.open(), await house.open()
    child = await house.delegate(root.task, house.register("reader"))
    mandate = child.task.mandate
    assert mandate.parent is not None
    changed = {
        "mandate": replace(mandate, parent=replace(mandate.parent, mandate="sha256:00")),
        "task": replace(mandate, parent=replace(mandate.parent, task=other.task.id)),
        "workload": replace(
            mandate, parent=replace(mandate.parent, workload=SpiffeId("test.example", "/x"))
        ),
        "on_behalf_of": replace(mandate, on_behalf_of="user:ceo@corp.example"),
        "wider": replace(mandate, parent=None),
    }[forged]
    # Whoever could write the row: signed well, but not what was opened; or signed by nobody.
    signed = house.signer.sign(to_claims(changed, "spiffe://test.example"), typ=MANDATE_TYP)
    if forged == "wider":
        signed = child.task.signed_mandate[:-4] + "AAAA"
    house.store.put(
        replace(
            child.task, mandate=changed, signed_mandate=signed, mandate_digest=digest_of(signed)
        )
    )
    await after_a_start(house)

    assert not house.desk.is_open(child.task.id)
    with pytest.raises(MandateError):
        await admitted(house, child)
    assert house.desk.is_open(root.task.id)
