from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from remit.model.errors import (
    ConflictError,
    EvidenceError,
    InputError,
    MandateError,
    NotFoundError,
)
from remit.model.label import Confidentiality, Label
from remit.model.subject import AgentState, Environment, SpiffeId
from remit.model.task import TaskState
from remit.tasks.mandates import MANDATE_TYP, claims_of, from_claims
from remit.tasks.request import TaskRequest
from remit.tasks.templates import parse_template
from remit.testing.tasks import MemorySigner

if TYPE_CHECKING:
    from conftest import House

ANN = "user:ann@corp.example"
REQUEST = TaskRequest(template="support.refund")


async def test_a_task_is_opened_under_a_signed_mandate_that_is_recorded(house: House) -> None:
    opened = await house.open(purpose="Refund order 1234", prompt="Please refund")

    task = opened.task
    (step, context) = house.recorder.records[0]
    assert step.kind == "task.opened"
    assert context.task == task.id
    assert house.recorder.durable == 1
    assert step.body["signed_mandate"] == task.signed_mandate
    assert task.mandate_digest == (
        f"sha256:{hashlib.sha256(task.signed_mandate.encode()).hexdigest()}"
    )
    claims = house.signer.verify(task.signed_mandate, typ=MANDATE_TYP)
    assert from_claims(claims) == task.mandate
    assert task.mandate.on_behalf_of == ANN
    assert task.mandate.agent == "support"


async def test_the_prompt_goes_to_the_vault_and_only_its_salted_digest_into_the_mandate(
    house: House,
) -> None:
    opened = await house.open(prompt="Please refund ☂")

    (step, _) = house.recorder.records[0]
    (payload,) = step.payloads
    kept = json.loads(payload.data)
    digest = hashlib.sha256(bytes.fromhex(kept["salt"]) + "Please refund ☂".encode()).hexdigest()
    assert opened.task.mandate.prompt == f"sha256:{digest}"
    assert kept["prompt"] == "Please refund ☂"
    assert len(bytes.fromhex(kept["salt"])) == 16
    assert "refund ☂" not in repr(step.body)
    assert "refund ☂" not in repr(opened)


async def test_a_request_can_only_narrow(house: House) -> None:
    opened = await house.open(
        expires_seconds=99_999,
        environments=["dev"],
        data_ceiling="restricted",
        budget={"calls": 50, "seconds": 3, "amount": {"usd": 10_000}},
    )

    mandate = opened.task.mandate
    assert (mandate.expires_at - mandate.issued_at).total_seconds() == 1800
    assert mandate.environments == (Environment.DEV,)
    assert mandate.data_ceiling is Confidentiality.CONFIDENTIAL
    assert mandate.budget.calls == 5
    assert mandate.budget.seconds == 3
    assert [amount.limit for amount in mandate.budget.amounts] == [Decimal(100)]


@pytest.mark.parametrize(
    "keys",
    [
        {"capability": [{"tool": "payments/wire"}]},
        {"capability": [{"prompt": "payments/refund"}]},
        {"capability": [{"resource": "files/file:///*"}]},
        {"capability": [{"resource": "files/file:///data/../*"}]},
        {"capability": [{"tool": "payments/void", "approval": "intern"}]},
        {"environments": ["prod"]},
        {"egress": ["evil.example"]},
        {"budget": {"amount": {"eur": 5}}},
        {"capability": [{"tool": "crm/get_customer", "args": {"id": {"enum": ["x" * 8000, "y"]}}}]
         * 5},
    ],
)  # fmt: skip
async def test_a_request_beyond_the_template_opens_nothing(
    house: House, keys: dict[str, object]
) -> None:
    with pytest.raises((InputError, MandateError)):
        await house.open(**keys)

    assert house.recorder.records == []
    assert await house.desk.list() == []


@pytest.mark.parametrize("state", [AgentState.SUSPENDED, AgentState.RETIRED])
async def test_an_agent_that_is_not_active_opens_nothing(house: House, state: AgentState) -> None:
    with pytest.raises(MandateError, match=state.value):
        await house.desk.open(REQUEST, agent=replace(house.agent, state=state), opened_by=ANN)


async def test_an_agent_opens_no_task_under_a_template_it_is_not_registered_for(
    house: House,
) -> None:
    with pytest.raises(MandateError, match="may not act under template"):
        await house.desk.open(REQUEST, agent=replace(house.agent, templates=()), opened_by=ANN)


async def test_an_agent_names_nobody_but_its_owner_as_the_one_it_acts_for(house: House) -> None:
    request = replace(REQUEST, on_behalf_of="user:ceo@corp.example")

    with pytest.raises(MandateError, match="on behalf of its owner only"):
        await house.desk.open(request, agent=house.agent, opened_by=str(house.agent.spiffe_id))


async def test_an_agent_cannot_flood_the_desk_with_tasks(house: House) -> None:
    for _ in range(3):
        await house.open()

    with pytest.raises(ConflictError, match="3 open tasks"):
        await house.open()


async def test_nothing_is_opened_when_it_cannot_be_recorded(house: House) -> None:
    house.recorder.fail = True

    with pytest.raises(EvidenceError):
        await house.open()

    assert house.desk.open_count == 0


async def test_the_token_admits_its_workload(house: House) -> None:
    opened = await house.open()

    assert await house.admit(opened.token) == opened.task


async def test_the_token_is_of_no_use_to_another_workload(house: House) -> None:
    opened = await house.open()

    with pytest.raises(MandateError, match="issued to another workload"):
        await house.admit(opened.token, SpiffeId("test.example", "/agents/two"))
    with pytest.raises(MandateError, match="issued to another workload"):
        await house.admit(opened.token, SpiffeId("other.example", "/agents/one"))


async def test_a_call_without_a_task_is_not_admitted(house: House) -> None:
    with pytest.raises(MandateError, match="remit_begin_task"):
        await house.admit(None)


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "..", "e30.e30.e30", "ü"])
async def test_what_is_no_token_is_not_admitted(house: House, token: str) -> None:
    with pytest.raises(MandateError, match="does not hold"):
        await house.admit(token)


async def test_a_forged_token_and_a_mandate_used_as_one_are_not_admitted(house: House) -> None:
    opened = await house.open()
    forger = MemorySigner(key=b"another key")
    claims = claims_of(opened.token)

    for token in (
        forger.sign(claims, typ="remit-task+jwt"),
        opened.task.signed_mandate,
        house.signer.sign({**claims, "aud": "else"}, typ="remit-task+jwt"),
        house.signer.sign({**claims, "iss": "spiffe://other.example"}, typ="remit-task+jwt"),
        house.signer.sign({**claims, "task": ["task_1"]}, typ="remit-task+jwt"),
        house.signer.sign({**claims, "task": "task_unknown"}, typ="remit-task+jwt"),
    ):
        with pytest.raises(MandateError):
            await house.admit(token)


async def test_an_expired_task_admits_and_acts_no_more(house: House) -> None:
    opened = await house.open(expires_seconds=60)
    house.clock.move(60)

    with pytest.raises(MandateError, match="expired"):
        await house.admit(opened.token)
    with pytest.raises(MandateError, match="expired"):
        house.desk.spend(opened.task.id, house.call("crm/get_customer"))
    with pytest.raises(MandateError, match="expired"):
        house.desk.require_open(opened.task.id)
    assert house.desk.due(house.clock()) == [opened.task.id]


async def test_a_template_that_shortens_ends_its_running_tasks_sooner(house: House) -> None:
    opened = await house.open()
    shorter = house.refund.replace(b"expires_seconds = 1800", b"expires_seconds = 60")
    house.desk.replace_templates({"support.refund": parse_template("support.refund.toml", shorter)})
    house.clock.move(60)

    with pytest.raises(MandateError, match="expired"):
        await house.admit(opened.token)
    assert house.desk.due(house.clock()) == [opened.task.id]


async def test_a_template_that_is_gone_leaves_its_running_tasks_nothing(house: House) -> None:
    opened = await house.open()
    house.desk.replace_templates({})

    task = await house.admit(opened.token)

    found = house.desk.measure(task, house.call("crm/get_customer", {"id": "88"}))
    assert found.in_mandate
    assert not found.in_template


async def test_a_template_that_narrows_binds_running_tasks_at_once(house: House) -> None:
    opened = await house.open()
    refund = house.call("payments/refund", {"amount": 50})
    assert house.desk.measure(opened.task, refund).violations == ()

    narrower = house.refund.replace(b"maximum = 100", b"maximum = 10")
    house.desk.replace_templates({"support.refund": parse_template("a.toml", narrower)})

    assert house.desk.measure(opened.task, refund).violations


async def test_calls_are_taken_until_none_is_left(house: House) -> None:
    opened = await house.open()
    for _ in range(5):
        house.desk.spend(opened.task.id, house.call("crm/get_customer"))

    with pytest.raises(MandateError, match="budget is spent: calls"):
        house.desk.spend(opened.task.id, house.call("crm/get_customer"))
    assert (await house.desk.get(opened.task.id)).spent.calls == 5


async def test_amounts_are_taken_exactly_and_never_added_to(house: House) -> None:
    opened = await house.open()
    for amount in (0.1, "0.2", 99.7):
        house.desk.spend(opened.task.id, house.call("payments/refund", {"amount": amount}))

    with pytest.raises(MandateError, match="usd"):
        house.desk.spend(opened.task.id, house.call("payments/refund", {"amount": 0.01}))
    for amount in (-50, True, float("nan"), "-1", None):
        with pytest.raises(MandateError, match="has to be an amount"):
            house.desk.spend(opened.task.id, house.call("payments/refund", {"amount": amount}))
    spent = (await house.desk.get(opened.task.id)).spent
    assert spent.amounts == {"usd": Decimal(100)}
    assert spent.calls == 3


async def test_a_refused_spend_takes_nothing(house: House) -> None:
    opened = await house.open()

    with pytest.raises(MandateError):
        house.desk.spend(opened.task.id, house.call("payments/refund", {"amount": 100.01}))

    assert (await house.desk.get(opened.task.id)).spent == opened.task.spent


async def test_the_same_call_is_not_in_flight_twice(house: House) -> None:
    opened = await house.open()
    call = house.call("crm/get_customer")
    house.desk.spend(opened.task.id, call)

    with pytest.raises(ConflictError, match="in flight"):
        house.desk.spend(opened.task.id, call)


async def test_seconds_count_once_when_settled_and_while_running(house: House) -> None:
    opened = await house.open()
    first, second = house.call("crm/get_customer"), house.call("crm/get_customer")
    house.desk.spend(opened.task.id, first)
    house.desk.spend(opened.task.id, second)
    house.clock.move(31)

    with pytest.raises(MandateError, match="seconds"):
        house.desk.spend(opened.task.id, house.call("crm/get_customer"))
    assert house.desk.measure(opened.task, first).exhausted == ("seconds",)

    house.desk.settle(opened.task.id, first, seconds=31, label=Label())
    house.desk.settle(opened.task.id, first, seconds=31, label=Label())
    house.desk.settle(opened.task.id, second, seconds=1, label=Label())
    assert (await house.desk.get(opened.task.id)).spent.seconds == 32
    house.desk.spend(opened.task.id, house.call("crm/get_customer"))


async def test_labels_only_rise(house: House) -> None:
    opened = await house.open()
    labels = (
        Label(Confidentiality.CONFIDENTIAL, trusted=False, categories=frozenset({"pii"})),
        Label(Confidentiality.PUBLIC, trusted=True, categories=frozenset({"financial"})),
    )
    for label in labels:
        call = house.call("crm/get_customer")
        house.desk.spend(opened.task.id, call)
        house.desk.settle(opened.task.id, call, seconds=0, label=label)

    assert (await house.desk.get(opened.task.id)).label == Label(
        Confidentiality.CONFIDENTIAL, trusted=False, categories=frozenset({"pii", "financial"})
    )


async def test_what_was_spent_outlives_the_process_and_so_does_the_token(house: House) -> None:
    opened = await house.open()
    house.desk.spend(opened.task.id, house.call("payments/refund", {"amount": 60}))

    desk = house.desk = house.another_desk()
    await desk.load()

    task = await house.admit(opened.token)
    assert task.spent.calls == 1
    assert task.spent.amounts == {"usd": Decimal(60)}
    with pytest.raises(MandateError, match="usd"):
        desk.spend(task.id, house.call("payments/refund", {"amount": 41}))


async def test_a_stored_mandate_that_does_not_verify_admits_nothing(house: House) -> None:
    opened = await house.open()
    wider = replace(opened.task.mandate, capabilities=(), purpose="Anything")
    house.store.put(replace(opened.task, mandate=wider))

    house.desk = house.another_desk()
    await house.desk.load()

    with pytest.raises(MandateError):
        await house.admit(opened.token)
    house.clock.move(1800)
    assert house.desk.due(house.clock()) == [opened.task.id]


@pytest.mark.parametrize("state", [TaskState.COMPLETED, TaskState.CANCELLED, TaskState.EXPIRED])
async def test_a_closed_task_admits_nothing_and_its_end_is_recorded(
    house: House, state: TaskState
) -> None:
    opened = await house.open()

    closed = await house.desk.close(opened.task.id, state, "user:ann")

    assert closed.state is state
    assert closed.closed_by == "user:ann"
    assert house.recorder.kinds == ["task.opened", f"task.{state.value}"]
    assert house.recorder.durable == 2
    assert (await house.desk.get(opened.task.id)) == closed
    with pytest.raises(MandateError, match=state.value):
        await house.admit(opened.token)
    with pytest.raises(MandateError):
        house.desk.spend(opened.task.id, house.call("crm/get_customer"))
    with pytest.raises(ConflictError, match=state.value):
        await house.desk.close(opened.task.id, TaskState.CANCELLED, "user:bob")


async def test_what_is_no_task_cannot_be_closed(house: House) -> None:
    with pytest.raises(NotFoundError):
        await house.desk.close("task_unknown", TaskState.COMPLETED, "user:ann")


async def test_closing_waits_for_what_is_in_flight_and_lets_nothing_new_in(house: House) -> None:
    opened = await house.open()
    call = house.call("crm/get_customer")
    house.desk.spend(opened.task.id, call)

    closing = asyncio.ensure_future(
        house.desk.close(opened.task.id, TaskState.COMPLETED, "user:ann")
    )
    await asyncio.sleep(0)

    for refused in (
        lambda: house.desk.spend(opened.task.id, house.call("crm/get_customer")),
        lambda: house.desk.require_open(opened.task.id),
    ):
        with pytest.raises(MandateError):
            refused()
    with pytest.raises(MandateError, match="being closed"):
        await house.admit(opened.token)
    with pytest.raises(ConflictError, match="being closed"):
        await house.desk.close(opened.task.id, TaskState.CANCELLED, "user:bob")
    assert not closing.done()
    house.desk.settle(opened.task.id, call, seconds=2, label=Label())
    assert (await closing).spent.seconds == 2


async def test_an_answer_after_the_end_counts_and_opens_nothing_again(house: House) -> None:
    opened = await house.open()
    call = house.call("crm/get_customer")
    house.desk.spend(opened.task.id, call)

    await house.desk.close(opened.task.id, TaskState.COMPLETED, "user:ann")
    house.desk.settle(opened.task.id, call, seconds=7, label=Label(trusted=False))

    kept = await house.store.get(opened.task.id)
    assert kept is not None
    assert kept.state is TaskState.COMPLETED
    assert kept.spent.seconds == 7
    assert not kept.label.trusted


async def test_an_answer_that_races_the_end_becoming_durable_does_not_reopen_the_task(
    house: House,
) -> None:
    opened = await house.open()
    call = house.call("crm/get_customer")
    house.desk.spend(opened.task.id, call)
    durable = house.recorder.barrier

    async def slow() -> None:
        house.desk.settle(opened.task.id, call, seconds=7, label=Label())
        await durable()

    house.recorder.barrier = slow  # type: ignore[method-assign]
    closed = await house.desk.close(opened.task.id, TaskState.COMPLETED, "user:ann")

    kept = await house.store.get(opened.task.id)
    assert kept == closed
    assert closed.spent.seconds == 7


async def test_an_end_that_cannot_be_recorded_can_be_repeated_and_admits_nothing(
    house: House,
) -> None:
    opened = await house.open()
    house.recorder.fail = True
    with pytest.raises(EvidenceError):
        await house.desk.close(opened.task.id, TaskState.COMPLETED, "user:ann")

    with pytest.raises(MandateError):
        await house.admit(opened.token)
    house.recorder.fail = False
    assert (
        await house.desk.close(opened.task.id, TaskState.COMPLETED, "user:ann")
    ).state is TaskState.COMPLETED
    assert house.recorder.kinds == ["task.opened", "task.completed"]


async def test_a_caller_that_goes_away_does_not_stop_the_end(house: House) -> None:
    opened = await house.open()
    house.desk.spend(opened.task.id, house.call("crm/get_customer"))
    closing = asyncio.ensure_future(
        house.desk.close(opened.task.id, TaskState.COMPLETED, "user:ann")
    )
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    for _ in range(200):
        if not house.desk.open_count:
            break
        await asyncio.sleep(0.01)
    assert (await house.desk.get(opened.task.id)).state is TaskState.COMPLETED


async def test_a_session_has_its_current_task_until_that_ends(house: House) -> None:
    opened = await house.open()
    house.desk.bind_current("session", opened.task.id)

    token = house.desk.current("session")
    assert token is not None
    assert (await house.admit(token)).id == opened.task.id
    assert house.desk.current("another") is None

    await house.desk.close(opened.task.id, TaskState.COMPLETED, "user:ann")
    assert house.desk.current("session") is None
    with pytest.raises(NotFoundError):
        house.desk.bind_current("session", opened.task.id)


async def test_tasks_are_listed_newest_first_by_state_and_agent(house: House) -> None:
    ids = []
    for _ in range(3):
        ids.append((await house.open()).task.id)
        house.clock.move(1)
    await house.desk.close(ids[1], TaskState.CANCELLED, "user:ann")

    assert [task.id for task in await house.desk.list()] == ids[::-1]
    assert [task.id for task in await house.desk.list(state=TaskState.OPEN)] == [ids[2], ids[0]]
    assert [task.id for task in await house.desk.list(agent="support", limit=1)] == [ids[2]]
    assert [task.id for task in await house.desk.list(after=ids[1])] == [ids[0]]
    assert await house.desk.list(agent="one") == []
