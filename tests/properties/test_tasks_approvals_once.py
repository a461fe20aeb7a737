"""Whatever is asked, said, lost, repeated and restarted: each yes is used at most once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.approvals.desk import ApprovalDesk
from remit.model.approval import ApprovalState
from remit.model.call import Call
from remit.model.decision import Decision, Effect
from remit.model.errors import ConflictError, EvidenceError
from remit.model.label import Confidentiality
from remit.model.mandate import Budget, Mandate, Template
from remit.model.subject import Agent, Environment, Person, SpiffeId, Subject
from remit.model.task import Task
from remit.testing.approvals import MemoryApprovals
from remit.testing.evidence import MemoryRecorder
from remit.testing.identity import ManualClock

START = datetime(2026, 1, 2, tzinfo=UTC)
WORKLOAD = SpiffeId("test.example", "/one")
BOB = Person(id="user:bob", method="oidc", roles=("manager",))
TASK = Task(
    mandate=Mandate(
        id="task_1",
        purpose="p",
        prompt=None,
        template="t",
        template_digest="",
        workload=WORKLOAD,
        on_behalf_of="user:ann",
        opened_by="user:ann",
        capabilities=(),
        environments=(Environment.DEV,),
        data_ceiling=Confidentiality.INTERNAL,
        egress=(),
        budget=Budget(),
        issued_at=START,
        expires_at=START + timedelta(days=1),
    ),
    template=Template(name="t", purpose="p", capabilities=()),
    signed_mandate="",
    mandate_digest="",
)
SUBJECT = Subject(
    workload=WORKLOAD,
    agent=Agent(
        name="one",
        spiffe_id=WORKLOAD,
        owner="user:ann",
        purpose="p",
        environment=Environment.DEV,
        registered_at=START,
    ),
    method="jwt-svid",
    issuer="i",
    credential="",
    expires_at=START + timedelta(days=1),
)

_steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["ask", "approve", "deny", "use", "use", "repeat", "wait", "restart", "fail", "mend"]
        ),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["one", "two"]),
    ),
    max_size=50,
)


def make_call(digest: str) -> Call:
    return Call(
        id="call_1", action="call_tool", upstream="a", name="b", arguments={}, digest=digest
    )


def make_decision(bundle: str) -> Decision:
    return Decision(
        id="dec_1",
        effect=Effect.APPROVAL_REQUIRED,
        reasons=(),
        bundle_digest=bundle,
        facts=b"",
        target="a/b",
        action="call_tool",
        approval_role="manager",
    )


@settings(max_examples=80, deadline=None)
@given(_steps)
def test_a_yes_is_used_at_most_once_and_only_for_its_own_call(
    steps: list[tuple[str, str, str]],
) -> None:
    asyncio.run(_in_order(steps))


class House:
    """A desk on which each word of a story is a method."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.recorder = MemoryRecorder()
        self.store = MemoryApprovals()
        self.used: Counter[str] = Counter()
        self.said: set[str] = set()
        self.desk = self.another_desk()

    def another_desk(self) -> ApprovalDesk:
        return ApprovalDesk(
            store=self.store,
            recorder=self.recorder,
            clock=self.clock,
            open_preview=self.recorder.open_preview,
        )

    async def ask(self, digest: str, bundle: str) -> None:
        await self.desk.ask(
            decision=make_decision(bundle), call=make_call(digest), task=TASK, subject=SUBJECT
        )

    async def approve(self, digest: str, bundle: str) -> None:
        for each in await self.desk.list(state=ApprovalState.PENDING):
            if each.call_digest != digest:
                continue
            # Where it could not be recorded, the memory store has it all the same.
            self.said.add(each.id)
            with contextlib.suppress(ConflictError, EvidenceError):
                await self.desk.approve(each.id, BOB)

    async def deny(self, digest: str, bundle: str) -> None:
        for each in await self.desk.list(state=ApprovalState.PENDING):
            if each.call_digest == digest:
                with contextlib.suppress(ConflictError, EvidenceError):
                    await self.desk.deny(each.id, BOB)

    async def use(self, digest: str, bundle: str) -> None:
        found = self.desk.granted(task_id="task_1", call=make_call(digest), bundle_digest=bundle)
        if found is not None:
            assert found.id in self.said
            assert (found.call_digest, found.bundle_digest) == (digest, bundle)
            assert found.expires_at > self.clock()
            self.used[self.desk.consume(found.id).id] += 1

    async def repeat(self, digest: str, bundle: str) -> None:
        for each in list(self.used):
            with pytest.raises(ConflictError):
                self.desk.consume(each)

    async def wait(self, digest: str, bundle: str) -> None:
        self.clock.move(400)

    async def restart(self, digest: str, bundle: str) -> None:
        self.desk = self.another_desk()
        await self.desk.load()

    async def fail(self, digest: str, bundle: str) -> None:
        self.recorder.fail = True

    async def mend(self, digest: str, bundle: str) -> None:
        self.recorder.fail = False


async def _in_order(steps: list[tuple[str, str, str]]) -> None:
    house = House()
    for word, digest, bundle in steps:
        await getattr(house, word)(digest, bundle)
    assert all(times == 1 for times in house.used.values())
