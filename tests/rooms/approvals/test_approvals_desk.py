from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from remit.approvals.desk import ApprovalDesk, NotEligibleError
from remit.model.approval import Approval, ApprovalState
from remit.model.call import Call
from remit.model.decision import Decision, Effect, Reason
from remit.model.errors import ConflictError, EvidenceError, NotFoundError
from remit.model.label import Confidentiality
from remit.model.mandate import Budget, Mandate, Template
from remit.model.subject import Agent, Environment, Person, SpiffeId, Subject
from remit.model.task import Task
from remit.testing.approvals import MemoryApprovals
from remit.testing.evidence import MemoryRecorder
from remit.testing.identity import ManualClock

WORKLOAD = SpiffeId("test.example", "/agents/one")
BUNDLE = "sha256:one"
BOB = Person(id="user:bob@corp.example", method="oidc", roles=("manager",))
ANN = Person(id="user:ann@corp.example", method="oidc", roles=("manager",))
EVE = Person(id="user:eve@corp.example", method="oidc", roles=("intern",))
OWNER = Person(id="user:root", method="kernel", roles=("admin",))
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_ids = count()


def call(digest: str = "a", **arguments: Any) -> Call:
    return Call(
        id=f"call_{next(_ids)}",
        action="call_tool",
        upstream="payments",
        name="refund",
        arguments=arguments,
        digest=digest,
    )


def decision(bundle: str = BUNDLE) -> Decision:
    return Decision(
        id="dec_1",
        effect=Effect.APPROVAL_REQUIRED,
        reasons=(Reason(policy="ask", sentence="a refund needs a manager"),),
        bundle_digest=bundle,
        facts=b"{}",
        target="payments/refund",
        action="call_tool",
        approval_role="manager",
    )


def task(task_id: str = "task_1", seconds: int = 3600) -> Task:
    return Task(
        mandate=Mandate(
            id=task_id,
            purpose="p",
            prompt=None,
            template="t",
            template_digest="",
            workload=WORKLOAD,
            on_behalf_of=ANN.id,
            opened_by=ANN.id,
            capabilities=(),
            environments=(Environment.DEV,),
            data_ceiling=Confidentiality.INTERNAL,
            egress=(),
            budget=Budget(),
            issued_at=START,
            expires_at=START + timedelta(seconds=seconds),
        ),
        template=Template(name="t", purpose="p", capabilities=()),
        signed_mandate="",
        mandate_digest="",
    )


def subject() -> Subject:
    agent = Agent(
        name="support",
        spiffe_id=WORKLOAD,
        owner=ANN.id,
        purpose="p",
        environment=Environment.DEV,
        registered_at=START,
    )
    return Subject(
        workload=WORKLOAD,
        agent=agent,
        method="jwt-svid",
        issuer="i",
        credential="00",
        expires_at=START,
    )


@dataclass
class House:
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    recorder: MemoryRecorder = field(default_factory=MemoryRecorder)
    store: MemoryApprovals = field(default_factory=MemoryApprovals)
    desk: ApprovalDesk = field(init=False)

    def __post_init__(self) -> None:
        self.desk = self.another_desk()

    def another_desk(self, *, self_approval: bool = False) -> ApprovalDesk:
        return ApprovalDesk(
            store=self.store,
            recorder=self.recorder,
            clock=self.clock,
            open_preview=self.recorder.open_preview,
            self_approval=self_approval,
            max_pending_per_task=3,
        )

    async def ask(
        self, one: Call | None = None, *, bundle: str = BUNDLE, under: Task | None = None
    ) -> Approval:
        return await self.desk.ask(
            decision=decision(bundle),
            call=one or call(),
            task=under or task(),
            subject=subject(),
        )

    def granted(self, digest: str = "a", bundle: str = BUNDLE) -> Approval | None:
        return self.desk.granted(task_id="task_1", call=call(digest), bundle_digest=bundle)


@pytest.fixture
def house() -> House:
    return House()


async def test_a_yes_is_asked_given_found_and_used_once(house: House) -> None:
    asked = await house.ask()
    assert asked.expires_at == START + timedelta(seconds=900)
    assert house.granted() is None
    with pytest.raises(ConflictError):
        house.desk.consume(asked.id)

    approved = await house.desk.approve(asked.id, BOB, "fine")

    assert house.granted() == replace(approved, preview="")
    assert house.desk.consume(asked.id).state is ApprovalState.USED
    with pytest.raises(ConflictError):
        house.desk.consume(asked.id)
    assert house.granted() is None
    assert house.recorder.kinds == ["approval.asked", "approval.approved", "approval.used"]
    assert {context.task for _, context in house.recorder.records} == {"task_1"}
    assert (await house.desk.get(asked.id)).state is ApprovalState.USED


async def test_a_yes_is_for_one_exact_call_in_one_task_under_one_bundle(house: House) -> None:
    asked = await house.ask()
    await house.desk.approve(asked.id, BOB)

    assert house.granted("b") is None
    assert house.granted(bundle="sha256:two") is None
    assert house.desk.granted(task_id="task_2", call=call(), bundle_digest=BUNDLE) is None
    assert house.granted() is not None


async def test_asking_again_while_pending_is_the_same_question(house: House) -> None:
    first = await house.ask()

    assert await house.ask() == first
    assert house.recorder.kinds == ["approval.asked"]


async def test_a_question_that_may_have_been_lost_is_written_again(house: House) -> None:
    asked = await house.ask()
    house.recorder.fail = True
    with pytest.raises(EvidenceError):
        await house.recorder.barrier()
    house.recorder.fail = False

    assert (await house.ask()).id == asked.id
    assert house.recorder.kinds == ["approval.asked"]


async def test_a_question_that_policy_has_outlived_is_withdrawn_and_asked_anew(
    house: House,
) -> None:
    old = await house.ask()
    new = await house.ask(bundle="sha256:two")

    assert new.id != old.id
    assert (await house.desk.get(old.id)).state is ApprovalState.EXPIRED
    with pytest.raises(ConflictError, match="expired already"):
        await house.desk.approve(old.id, BOB)


async def test_an_agent_cannot_flood_the_approvers(house: House) -> None:
    for digest in "abc":
        await house.ask(call(digest))

    with pytest.raises(ConflictError, match="waits for 3 approvals"):
        await house.ask(call("d"))
    await house.ask(call("a"))
    await house.ask(call("d"), under=task("task_2"))
    house.clock.move(900)
    await house.ask(call("d"))


@pytest.mark.parametrize("word", ["approve", "deny"])
async def test_only_the_role_that_was_asked_decides(house: House, word: str) -> None:
    asked = await house.ask()

    with pytest.raises(NotEligibleError, match="does not hold the role `manager`"):
        await getattr(house.desk, word)(asked.id, EVE)

    assert (await house.desk.get(asked.id)).state is ApprovalState.PENDING


async def test_the_owner_holds_every_role(house: House) -> None:
    asked = await house.ask()

    assert (await house.desk.approve(asked.id, OWNER)).decided_by == "user:root"


@pytest.mark.parametrize(
    "spelling",
    [
        "user:ann@corp.example",
        "User:Ann@Corp.example",
        "ann@corp.example",
        "user:\uff41nn@corp.example",
    ],
)
async def test_nobody_approves_what_is_done_on_their_behalf(house: House, spelling: str) -> None:
    asked = await house.ask()

    with pytest.raises(NotEligibleError, match="somebody else"):
        await house.desk.approve(asked.id, replace(ANN, id=spelling))
    assert (await house.desk.deny(asked.id, ANN)).state is ApprovalState.DENIED


async def test_who_opens_a_task_for_somebody_else_does_not_approve_its_calls(house: House) -> None:
    opened = replace(task(), mandate=replace(task().mandate, opened_by="User:Bob@Corp.example"))
    asked = await house.ask(under=opened)

    with pytest.raises(
        NotEligibleError, match=r"opened by `user:bob@corp\.example`: somebody else"
    ):
        await house.desk.approve(asked.id, BOB)
    assert (await house.desk.approve(asked.id, OWNER)).state is ApprovalState.APPROVED


async def test_an_operator_may_allow_people_to_approve_their_own(house: House) -> None:
    house.desk = house.another_desk(self_approval=True)
    asked = await house.ask()

    assert (await house.desk.approve(asked.id, ANN)).state is ApprovalState.APPROVED


async def test_a_decision_stands(house: House) -> None:
    approved, denied = await house.ask(call("a")), await house.ask(call("b"))
    await house.desk.approve(approved.id, BOB)
    await house.desk.deny(denied.id, BOB)

    for decide in (house.desk.approve, house.desk.deny):
        with pytest.raises(ConflictError, match="is approved already"):
            await decide(approved.id, BOB)
        with pytest.raises(ConflictError, match="is denied already"):
            await decide(denied.id, BOB)
    assert house.granted("b") is None
    with pytest.raises(ConflictError):
        house.desk.consume(denied.id)


async def test_what_nobody_asked_cannot_be_decided(house: House) -> None:
    with pytest.raises(NotFoundError):
        await house.desk.approve("apr_unknown", BOB)
    with pytest.raises(NotFoundError):
        await house.desk.get("apr_unknown")
    with pytest.raises(ConflictError):
        house.desk.consume("apr_unknown")


async def test_silence_is_a_no(house: House) -> None:
    asked = await house.ask()
    house.clock.move(900)

    with pytest.raises(ConflictError, match="is expired already"):
        await house.desk.approve(asked.id, BOB)
    assert house.recorder.kinds == ["approval.asked", "approval.expired"]
    assert [each.state for each in await house.desk.list()] == [ApprovalState.EXPIRED]


async def test_a_yes_that_was_not_used_in_time_is_gone(house: House) -> None:
    asked = await house.ask()
    await house.desk.approve(asked.id, BOB)
    house.clock.move(900)

    assert house.granted() is None
    with pytest.raises(ConflictError, match="expired"):
        house.desk.consume(asked.id)
    assert [each.id for each in house.desk.expire_due()] == [asked.id]
    assert house.desk.expire_due() == []


async def test_a_question_does_not_outlive_its_task(house: House) -> None:
    asked = await house.ask(under=task(seconds=60))

    assert asked.expires_at == START + timedelta(seconds=60)


async def test_what_is_pending_and_approved_outlives_the_process(house: House) -> None:
    pending, approved = await house.ask(call("a")), await house.ask(call("b"))
    used = await house.ask(call("c"))
    await house.desk.approve(approved.id, BOB)
    await house.desk.approve(used.id, BOB)
    house.desk.consume(used.id)

    house.desk = house.another_desk()
    await house.desk.load()

    assert await house.ask(call("a")) == pending
    assert house.granted("b") is not None
    assert house.granted("c") is None
    with pytest.raises(ConflictError):
        house.desk.consume(used.id)


async def test_a_yes_that_could_not_be_recorded_is_found_by_no_call_and_can_be_repeated(
    house: House,
) -> None:
    asked = await house.ask()
    await house.recorder.barrier()
    house.recorder.fail = True
    with pytest.raises(EvidenceError):
        await house.desk.approve(asked.id, BOB)

    assert house.granted() is None
    assert (await house.desk.get(asked.id)).state is ApprovalState.PENDING
    house.recorder.fail = False
    await house.desk.approve(asked.id, BOB)
    assert house.granted() is not None
    assert house.recorder.kinds == ["approval.asked", "approval.approved"]


class _SlowRecorder(MemoryRecorder):
    """Its barriers wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def barrier(self) -> None:
        await self.go.wait()
        await super().barrier()


async def test_of_two_people_who_decide_at_once_one_is_heard() -> None:
    recorder = _SlowRecorder()
    house = House(recorder=recorder)
    asked = await house.ask()

    yes = asyncio.ensure_future(house.desk.approve(asked.id, BOB))
    await asyncio.sleep(0)
    assert house.granted() is None
    with pytest.raises(ConflictError, match="is being decided"):
        await house.desk.deny(asked.id, OWNER)
    recorder.go.set()

    assert (await yes).state is ApprovalState.APPROVED
    assert house.recorder.kinds == ["approval.asked", "approval.approved"]


async def test_a_person_who_goes_away_has_decided_all_the_same() -> None:
    recorder = _SlowRecorder()
    house = House(recorder=recorder)
    asked = await house.ask()
    yes = asyncio.ensure_future(house.desk.approve(asked.id, BOB))
    await asyncio.sleep(0)
    yes.cancel()
    with pytest.raises(asyncio.CancelledError):
        await yes
    recorder.go.set()

    for _ in range(10):
        await asyncio.sleep(0)
    assert house.granted() is not None


async def test_of_many_calls_that_use_one_yes_one_does(house: House) -> None:
    asked = await house.ask()
    await house.desk.approve(asked.id, BOB)

    async def use() -> bool:
        await asyncio.sleep(0)
        found = house.granted()
        if found is None:
            return False
        try:
            house.desk.consume(found.id)
        except ConflictError:
            return False
        return True

    assert sum(await asyncio.gather(*(use() for _ in range(50)))) == 1


async def test_the_approver_sees_every_argument_and_nothing_can_hide_in_it(house: House) -> None:
    arguments = {
        "amount": 5,
        "to\u202egpj": "send\u2066 me\x1b[2K\r\n\u200b",
        "nested": {"a": [1, None, "\ud800"]},
    }

    asked = await house.desk.get((await house.ask(call(**arguments))).id)

    shown = json.loads(asked.preview)
    assert shown["target"] == "payments/refund"
    assert shown["action"] == "call_tool"
    assert shown["arguments"] == arguments
    assert asked.preview.isprintable()
    assert asked.preview.isascii()
    assert "send" not in repr(asked)
    (step, _) = house.recorder.records[0]
    assert "send" not in repr(dict(step.body))


async def test_what_would_happen_is_kept_in_the_vault_alone_and_goes_with_its_key(
    house: House,
) -> None:
    asked = await house.ask(call(amount=5))
    await house.recorder.barrier()
    assert asked.preview == ""
    (kept,) = await house.store.list()
    assert kept.preview == ""
    assert "amount" not in str(kept)
    assert "amount" in (await house.another_desk().get(asked.id)).preview
    (listed,) = await house.desk.list()
    assert "amount" in listed.preview
    assert "amount" in (await house.desk.deny(asked.id, BOB)).preview
    assert [len(step.payloads) for step, _ in house.recorder.records] == [1, 0]
    house.recorder.erased = True
    assert (await house.desk.get(asked.id)).preview == ""


async def test_the_digest_of_the_call_goes_once_nobody_can_use_it(house: House) -> None:
    asked = await house.ask()
    (kept,) = await house.store.list()
    assert kept.call_digest == asked.call_digest
    await house.desk.deny(asked.id, BOB)
    (kept,) = await house.store.list()
    assert kept.call_digest == ""


async def test_a_task_that_ends_takes_its_approvals_with_it(house: House) -> None:
    waiting = await house.ask(call("a"))
    given = await house.ask(call("b"))
    other = await house.ask(call("a"), under=task("task_2"))
    await house.desk.approve(given.id, BOB)
    assert {each.id for each in house.desk.end_task("task_1")} == {waiting.id, given.id}
    assert house.granted("b") is None
    for ended in (waiting, given):
        assert (await house.desk.get(ended.id)).state is ApprovalState.EXPIRED
        with pytest.raises(ConflictError, match="expired already"):
            await house.desk.approve(ended.id, BOB)
    assert (await house.desk.get(other.id)).state is ApprovalState.PENDING
    assert house.recorder.kinds[-2:] == ["approval.expired"] * 2


async def test_a_yes_that_comes_as_the_task_ends_expires_at_once(house: House) -> None:
    asked = await house.ask()
    deciding = asyncio.create_task(house.desk.approve(asked.id, BOB))
    while not house.desk._deciding:  # noqa: ASYNC110 - the desk offers no event
        await asyncio.sleep(0)
    assert house.desk.end_task("task_1") == []
    assert (await deciding).state is ApprovalState.EXPIRED
    assert house.granted() is None
    assert house.recorder.kinds == ["approval.asked", "approval.approved", "approval.expired"]


async def test_approvals_of_a_task_that_a_crash_ended_are_not_pending_after_a_start(
    house: House,
) -> None:
    asked = await house.ask()
    desk = house.another_desk()
    await desk.load()
    desk.expire_ended(lambda task_id: task_id != "task_1")
    assert (await desk.get(asked.id)).state is ApprovalState.EXPIRED
    assert await desk.list(state=ApprovalState.PENDING) == []
