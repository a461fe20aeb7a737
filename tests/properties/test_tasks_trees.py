"""However tasks are delegated, spent and ended: a chain only narrows, and a tree has one budget."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from remit.model.call import Call
from remit.model.errors import ConflictError, InputError, MandateError
from remit.model.label import Label
from remit.model.subject import Agent, AgentState, Claim, Environment, SpiffeId, Subject
from remit.model.task import Task, TaskState
from remit.tasks import bounds
from remit.tasks.delegating import DelegationLimits
from remit.tasks.desk import TaskDesk
from remit.tasks.request import Opened, TaskRequest
from remit.tasks.templates import parse_template
from remit.testing.evidence import MemoryRecorder
from remit.testing.identity import ManualClock
from remit.testing.tasks import MemoryAgents, MemorySigner, MemoryTasks

TEMPLATE = parse_template(
    "t.toml",
    b"""
purpose = "p"
environments = ["dev", "prod"]
egress = ["a.example", "b.example"]
data_ceiling = "confidential"
expires_seconds = 600
budget = { calls = 9, amount = { usd = { limit = 20, tool = "a/pay", argument = "x" } } }
[[capability]]
tool = "a/pay"
args = { x = { type = "number", maximum = 10 } }
[[capability]]
tool = "a/read"
other_args = true
[[capability]]
resource = "f/file:///d/*"
""",
)
AGENTS = [
    Agent(
        name=name,
        spiffe_id=SpiffeId("test.example", f"/{name}"),
        owner="user:ann",
        purpose="p",
        environment=Environment.DEV,
        templates=("t",),
        registered_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    for name in ("a", "b", "c", "d")
]
LIMITS = DelegationLimits(depth=3, tasks=4)


def make_call(number: int, target: str, arguments: dict[str, Any]) -> Call:
    upstream, _, name = target.partition("/")
    action = "read_resource" if upstream == "f" else "call_tool"
    return Call(
        id=f"call_{number}",
        action=action,
        upstream=upstream,
        name=name,
        arguments=arguments,
        digest="",
    )


@dataclass
class Desk:
    agents: MemoryAgents = field(default_factory=lambda: MemoryAgents(*AGENTS))
    store: MemoryTasks = field(default_factory=MemoryTasks)
    signer: MemorySigner = field(default_factory=MemorySigner)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.desk = self.another()

    def another(self) -> TaskDesk:
        return TaskDesk(
            store=self.store,
            signer=self.signer,
            recorder=MemoryRecorder(),
            clock=self.clock,
            templates={"t": TEMPLATE},
            close_wait_seconds=0.0,
            agents=self.agents,
            delegation=LIMITS,
        )

    async def part(self, of: Task, to: Agent, **keys: Any) -> Opened:
        request = TaskRequest.parse({"template": "t", **keys})
        by = str(of.mandate.workload)
        return await self.desk.delegate(request, parent=of.id, agent=to, opened_by=by)


_capabilities = st.builds(
    lambda pay, read, other, resource: [
        {"tool": "a/pay", "args": {"x": {"maximum": pay}}},
        {"tool": "a/read", "args": {"x": {"minimum": read}}, "other_args": other},
        {"resource": resource},
    ],
    st.integers(0, 12),
    st.integers(-1, 5),
    st.booleans(),
    st.sampled_from(["f/file:///d/*", "f/file:///d/e/*", "f/file:///d/e/f"]),
)
_requests = st.fixed_dictionaries(
    {},
    optional={
        "capability": _capabilities,
        "environments": st.sampled_from([["dev"], ["dev", "prod"]]),
        "data_ceiling": st.sampled_from(["public", "internal", "restricted"]),
        "expires_seconds": st.integers(1, 900),
        "budget": st.builds(lambda n: {"calls": n}, st.integers(1, 12)),
    },
)
_calls = st.tuples(
    st.sampled_from(["a/pay", "a/read", "f/file:///d/x", "f/file:///d/e/f", "f/file:///d/e/../x"]),
    st.dictionaries(st.sampled_from(["x", "y"]), st.integers(-1, 13), max_size=2),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(_requests, min_size=2, max_size=4), st.lists(_calls, min_size=1, max_size=5))
def test_what_the_end_of_a_chain_may_each_mandate_of_it_allows_alone(
    asked: list[dict[str, Any]], calls: list[tuple[str, dict[str, Any]]]
) -> None:
    asyncio.run(_narrowed(asked, calls))


async def _narrowed(asked: list[dict[str, Any]], calls: list[tuple[str, dict[str, Any]]]) -> None:
    made = Desk()
    request = TaskRequest.parse({"template": "t", **asked[0]})
    task = (await made.desk.open(request, agent=AGENTS[0], opened_by="user:ann")).task
    for agent, keys in zip(AGENTS[1:], asked[1:], strict=False):
        try:
            task = (await made.part(task, agent, **keys)).task
        except InputError:
            break
    for lower, upper in zip(task.chain, task.above, strict=False):
        assert lower.mandate.expires_at <= upper.mandate.expires_at
        assert lower.mandate.data_ceiling <= upper.mandate.data_ceiling
        assert set(lower.mandate.environments) <= set(upper.mandate.environments)
    for number, (target, arguments) in enumerate(calls):
        call = make_call(number, target, arguments)
        together = made.desk.measure(task, call)
        alone = [bounds.measure(each, call) for each in task.chain]
        permitted = together.in_mandate and together.in_template
        permitted = permitted and not together.violations and not together.exhausted
        assert permitted == all(
            each.in_mandate and each.in_template and not each.violations and not each.exhausted
            for each in alone
        )


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("spend"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("settle"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("part"), st.integers(0, 5), st.integers(1, 3)),
        st.tuples(st.just("close"), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("suspend"), st.just(0), st.integers(1, 3)),
        st.tuples(st.just("resume"), st.just(0), st.integers(1, 3)),
        st.tuples(st.just("start"), st.just(0), st.just(0)),
        st.tuples(st.just("end"), st.just(0), st.just(0)),
    ),
    min_size=6,
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(_steps)
def test_no_order_of_things_overspends_a_tree_or_leaves_a_task_open_below_one_that_ended(
    steps: list[tuple[str, int, int]],
) -> None:
    asyncio.run(_in_order(steps))


async def _in_order(steps: list[tuple[str, int, int]]) -> None:
    made = Desk()
    root = await made.desk.open(TaskRequest(template="t"), agent=AGENTS[0], opened_by="user:ann")
    child = await made.part(root.task, AGENTS[1])
    opened = [root, child, await made.part(child.task, AGENTS[2])]
    for word, which, number in steps:
        task = opened[which % len(opened)].task
        call = make_call(number, "a/pay", {"x": number % 4})
        try:
            if word == "part":
                opened.append(await made.part(task, AGENTS[number]))
            elif word == "spend":
                made.desk.spend(task.id, call)
            elif word == "settle":
                made.desk.settle(task.id, call, seconds=1, label=Label())
            elif word in {"close", "end"}:
                await made.desk.close(task.id, TaskState.COMPLETED, "user:ann")
            elif word in {"suspend", "resume"}:
                state = AgentState.SUSPENDED if word == "suspend" else AgentState.ACTIVE
                made.agents.put(replace(AGENTS[number], state=state))
            else:
                made.desk = made.another()
                await made.desk.load()
                for lost, parent in made.desk.disowned():
                    await made.desk.close_tree(
                        lost, TaskState.CANCELLED, "remit", ended_with=parent
                    )
        except (ConflictError, MandateError):
            pass
        await _hold(made, opened)


async def _hold(made: Desk, opened: list[Opened]) -> None:
    kept = {each.task.id: await made.store.get(each.task.id) for each in opened}
    below: dict[str, int] = dict.fromkeys(kept, 0)
    for task in kept.values():
        assert task is not None
        assert task.spent.calls <= 9
        assert task.spent.amounts.get("usd", 0) <= 20
        parent = task.mandate.parent
        if parent is None:
            continue
        above = kept[parent.task]
        assert above is not None
        below[parent.task] += task.spent.calls
        if above.state is not TaskState.OPEN:
            assert task.state is not TaskState.OPEN
            assert not made.desk.is_open(task.id)
        agent = made.agents.by_id(parent.workload)
        if agent is None or agent.state is not AgentState.ACTIVE:
            assert not made.desk.is_open(task.id)
            subject = Subject(
                workload=task.mandate.workload,
                agent=AGENTS[0],
                method="jwt-svid",
                issuer="spiffe://test.example",
                credential="00",
                expires_at=datetime(2027, 1, 1, tzinfo=UTC),
            )
            token = next(each.token for each in opened if each.task.id == task.id)
            try:
                await made.desk.admit(Claim(task_token=token), subject)
            except MandateError:
                continue
            raise AssertionError("it was admitted below a delegator that is not active")
    for task_id, calls in below.items():
        task = kept[task_id]
        assert task is not None
        assert calls <= task.spent.calls
