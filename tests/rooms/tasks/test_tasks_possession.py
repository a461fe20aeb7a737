"""Which key a task is bound to, and that nobody without it acts under the task."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from remit.model.errors import EvidenceError, InputError, MandateError, UnidentifiedError
from remit.model.subject import Claim
from remit.model.task import OWN_KEY, Task
from remit.proof.dpop import ProofKey
from remit.tasks.desk import TaskDesk
from remit.tasks.request import TaskRequest
from remit.tasks.token import TOKEN_TYP, issue_token, read_token

if TYPE_CHECKING:
    from conftest import House

ANN = "user:ann@corp.example"
ONE, OTHER = ProofKey.generate().thumbprint, ProofKey.generate().thumbprint
REQUEST = {"template": "support.refund"}


async def admit(house: House, token: str, key: str | None, *, bound: bool = False) -> Task:
    who = replace(house.subject(), key=key, bound=bound)
    return await house.desk.admit(Claim(task_token=token), who)


async def test_a_bound_task_admits_its_key_and_no_other(house: House) -> None:
    opened = await house.open(confirmation={"jkt": ONE})
    assert (await admit(house, opened.token, ONE)).key == ONE
    # A bound identity whose key is the task's is as good; OWN_KEY is not a thumbprint.
    assert (await admit(house, opened.token, ONE, bound=True)).key == ONE
    for key, match in ((None, "bound to a key"), (OTHER, "another key"), (OWN_KEY, "another key")):
        with pytest.raises(MandateError, match=match):
            await admit(house, opened.token, key)
    with pytest.raises(MandateError, match="another key"):
        await admit(house, opened.token, OTHER, bound=True)


async def test_a_task_of_bound_identities_admits_no_bearer_identity(house: House) -> None:
    opened = await house.open()
    assert (await admit(house, opened.token, ONE, bound=True)).key == OWN_KEY
    assert (await admit(house, opened.token, OTHER, bound=True)).key == OWN_KEY
    with pytest.raises(MandateError, match="bound to a key"):
        await admit(house, opened.token, None)
    with pytest.raises(MandateError, match="another key"):
        await admit(house, opened.token, ONE)


async def test_the_first_key_shown_is_the_tasks_and_that_is_recorded(house: House) -> None:
    opened = await house.open()
    assert (await admit(house, opened.token, None)).key is None
    assert (await admit(house, opened.token, ONE)).key == ONE
    assert house.recorder.kinds == ["task.opened", "task.bound"]
    step, context = house.recorder.records[-1]
    assert step.body == {"mandate": opened.task.mandate_digest, "key": ONE}
    assert context.task == opened.task.id
    await admit(house, opened.token, ONE)
    assert house.recorder.kinds == ["task.opened", "task.bound"]
    with pytest.raises(MandateError, match="bound to a key"):
        await admit(house, opened.token, None)


async def test_a_binding_outlives_the_process(house: House) -> None:
    named = await house.open(confirmation={"jkt": ONE})
    found = await house.open()
    await admit(house, found.token, ONE)
    house.desk = house.another_desk()
    await house.desk.load()
    for opened in (named, found):
        assert (await admit(house, opened.token, ONE)).key == ONE
        for key in (None, OTHER):
            with pytest.raises(MandateError, match="bound to"):
                await admit(house, opened.token, key)


async def test_a_binding_that_cannot_be_recorded_admits_nothing_without_the_key(
    house: House,
) -> None:
    opened = await house.open()
    house.recorder.fail = True
    await admit(house, opened.token, ONE)
    with pytest.raises(EvidenceError):
        await house.recorder.barrier()
    with pytest.raises(MandateError, match="bound to a key"):
        await admit(house, opened.token, None)


async def test_a_token_says_the_key_of_its_task(house: House) -> None:
    opened = await house.open(confirmation={"jkt": ONE})
    assert read_token(house.signer, opened.token).key == ONE
    assert read_token(house.signer, issue_token(house.signer, opened.task)).key == ONE
    for key in (None, OWN_KEY):
        plain = issue_token(house.signer, replace(opened.task, key=key))
        assert read_token(house.signer, plain).key is None
    # Should a token and its task ever disagree, neither is believed.
    stray = issue_token(house.signer, replace(opened.task, key=OTHER))
    for key in (ONE, OTHER):
        with pytest.raises(MandateError, match="another key than its task"):
            await admit(house, stray, key)


@pytest.mark.parametrize("cnf", [None, {}, [], {"jkt": 1}, {"x5t#S256": ONE}, {"jkt": ONE, "a": 1}])
async def test_a_token_bound_in_another_way_is_not_read(house: House, cnf: Any) -> None:
    opened = await house.open()
    claims = {**house.signer.verify(opened.token, typ=TOKEN_TYP), "cnf": cnf}
    with pytest.raises(UnidentifiedError, match="cannot check"):
        read_token(house.signer, house.signer.sign(claims, typ=TOKEN_TYP))


@pytest.mark.parametrize(
    "confirmation",
    [ONE, {}, {"jkt": ""}, {"jkt": ONE + "="}, {"jkt": ONE, "x": 1}, {"jkt": 1}, {"jkt": OWN_KEY}],
    # The keys are fresh, and whoever runs the tests in parallel compares their names.
    ids=["text", "empty", "no print", "padded", "more", "number", "a name of ours"],
)
def test_a_confirmation_that_cannot_be_checked_is_no_request(confirmation: Any) -> None:
    with pytest.raises(InputError, match="thumbprint of a key"):
        TaskRequest.parse({**REQUEST, "confirmation": confirmation})


def requiring(house: House) -> TaskDesk:
    house.desk = TaskDesk(
        store=house.store,
        signer=house.signer,
        recorder=house.recorder,
        clock=house.clock,
        templates=house.desk.templates,
        require_proof=True,
    )
    return house.desk


async def test_where_a_proof_is_required_an_agent_opens_and_uses_nothing_without(
    house: House,
) -> None:
    desk = requiring(house)
    agent, request = house.agent, TaskRequest.parse(REQUEST)
    with pytest.raises(MandateError, match="only with a proof"):
        await desk.open(request, agent=agent, opened_by=str(agent.spiffe_id))
    named = TaskRequest.parse({**REQUEST, "confirmation": {"jkt": ONE}})
    with pytest.raises(MandateError, match="only with a proof"):
        await desk.open(named, agent=agent, opened_by=str(agent.spiffe_id))
    assert house.recorder.kinds == []
    opened = await desk.open(request, agent=agent, opened_by=str(agent.spiffe_id), key=ONE)
    assert opened.task.key == ONE
    by_a_person = await desk.open(request, agent=agent, opened_by=ANN)
    with pytest.raises(MandateError, match="wants a proof"):
        await admit(house, by_a_person.token, None)
    assert (await admit(house, by_a_person.token, ONE)).key == ONE


async def test_a_request_names_no_other_key_than_the_one_shown(house: House) -> None:
    named = TaskRequest.parse({**REQUEST, "confirmation": {"jkt": ONE}})
    by = str(house.agent.spiffe_id)
    with pytest.raises(InputError, match="another key"):
        await house.desk.open(named, agent=house.agent, opened_by=by, key=OTHER)
    opened = await house.desk.open(named, agent=house.agent, opened_by=by, key=ONE)
    assert opened.task.key == ONE
