"""Whatever is asked for and in whatever order, authority only narrows and is spent once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from remit.model.call import Call
from remit.model.errors import ConflictError, InputError, MandateError
from remit.model.label import Label
from remit.model.mandate import Template
from remit.model.subject import Agent, Environment, SpiffeId
from remit.model.task import TaskState
from remit.tasks.bounds import measure
from remit.tasks.desk import TaskDesk
from remit.tasks.keys import parse_amount
from remit.tasks.request import TaskRequest
from remit.tasks.templates import parse_template
from remit.testing.evidence import MemoryRecorder
from remit.testing.identity import ManualClock
from remit.testing.tasks import MemorySigner, MemoryTasks

TEMPLATE = parse_template(
    "t.toml",
    b"""
purpose = "p"
environments = ["dev", "prod"]
egress = ["a.example", "b.example"]
data_ceiling = "confidential"
expires_seconds = 600
budget = { calls = 6, amount = { usd = { limit = 20, tool = "a/pay", argument = "x" } } }
[[capability]]
tool = "a/pay"
args = { x = { type = "number", maximum = 10 }, y = { enum = ["p", "q", 1] } }
[[capability]]
tool = "a/read"
args = { x = { type = ["number", "string"] } }
other_args = true
[[capability]]
tool = "a/pinned"
args = { x = { const = 3 } }
""",
)
AGENT = Agent(
    name="one",
    spiffe_id=SpiffeId("test.example", "/one"),
    owner="user:ann",
    purpose="p",
    environment=Environment.DEV,
    templates=("t",),
    registered_at=datetime(2026, 1, 2, tzinfo=UTC),
)

_targets = st.sampled_from(["a/pay", "a/read", "a/pinned", "a/other"])
_values = st.one_of(
    st.integers(-3, 15),
    st.floats(allow_nan=True),
    st.sampled_from(["p", "q", "3", "", "9.99", "\ud800"]),
    st.booleans(),
    st.none(),
)
_schemas = st.one_of(
    st.just({}),
    st.booleans(),
    st.builds(lambda n: {"maximum": n}, st.integers(0, 100)),
    st.builds(lambda n: {"const": n}, st.sampled_from(["p", 3, 99])),
    st.builds(lambda n: {"type": n}, st.sampled_from(["number", "string", "boolean"])),
)
_arguments = st.dictionaries(st.sampled_from(["x", "y", "z"]), _values)
_capabilities = st.lists(
    st.builds(
        lambda target, args, other: {"tool": target, "args": args, "other_args": other},
        _targets,
        st.dictionaries(st.sampled_from(["x", "y", "z"]), _schemas),
        st.booleans(),
    ),
    max_size=4,
)
_requests = st.fixed_dictionaries(
    {"template": st.just("t")},
    optional={
        "capability": _capabilities,
        "environments": st.lists(st.sampled_from(["dev", "staging", "prod"])),
        "egress": st.lists(st.sampled_from(["a.example", "c.example"])),
        "data_ceiling": st.sampled_from(["public", "internal", "confidential", "restricted"]),
        "expires_seconds": st.integers(1, 10_000),
        "budget": st.fixed_dictionaries(
            {},
            optional={
                "calls": st.integers(1, 100),
                "seconds": st.integers(1, 100),
                "amount": st.fixed_dictionaries({"usd": st.integers(0, 100)}),
            },
        ),
    },
)


def make_call(number: int, target: str, arguments: dict[str, Any]) -> Call:
    upstream, _, name = target.partition("/")
    return Call(
        id=f"call_{number}",
        action="call_tool",
        upstream=upstream,
        name=name,
        arguments=arguments,
        digest="",
    )


def make_desk(template: Template = TEMPLATE) -> TaskDesk:
    return TaskDesk(
        store=MemoryTasks(),
        signer=MemorySigner(),
        recorder=MemoryRecorder(),
        clock=ManualClock(),
        templates={"t": template},
        close_wait_seconds=0.0,
    )


def satisfies_template(target: str, arguments: dict[str, Any]) -> bool:
    """The template's own rules once more, written out by hand."""
    x = arguments.get("x")
    number = isinstance(x, int | float) and not isinstance(x, bool)
    if target == "a/pay":
        payable = number and 0 <= x <= 10 and parse_amount(x) is not None
        y = "y" not in arguments or (
            arguments["y"] in ("p", "q", 1) and not isinstance(arguments["y"], bool)
        )
        return payable and y and not arguments.keys() - {"x", "y"}
    if target == "a/read":
        return "x" not in arguments or number or isinstance(x, str)
    if target == "a/pinned":
        return number and x == 3 and arguments.keys() == {"x"}
    return False


@settings(max_examples=120, deadline=None)
@given(_requests, st.lists(st.tuples(_targets, _arguments), min_size=1, max_size=5))
def test_what_an_opened_mandate_permits_satisfies_its_template(
    keys: dict[str, Any], calls: list[tuple[str, dict[str, Any]]]
) -> None:
    try:
        opened = asyncio.run(
            make_desk().open(TaskRequest.parse(keys), agent=AGENT, opened_by="user:ann")
        )
    except (InputError, MandateError):
        assume(False)
        return
    mandate = opened.task.mandate

    assert set(mandate.environments) <= set(TEMPLATE.environments)
    assert set(mandate.egress) <= set(TEMPLATE.egress)
    assert mandate.data_ceiling <= TEMPLATE.data_ceiling
    assert (mandate.expires_at - mandate.issued_at).total_seconds() <= TEMPLATE.expires_seconds
    assert mandate.budget.calls is not None
    assert mandate.budget.calls <= 6
    assert [a.limit <= 20 for a in mandate.budget.amounts if a.name == "usd"] == [True]
    for number, (target, arguments) in enumerate(calls):
        found = measure(opened.task, make_call(number, target, arguments))
        within = found.in_mandate and found.in_template
        if within and not found.violations and not found.exhausted:
            assert satisfies_template(target, arguments)


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("spend"), st.integers(0, 9), _values),
        st.tuples(st.just("settle"), st.integers(0, 9), st.none()),
        st.tuples(st.just("close"), st.just(0), st.none()),
        st.tuples(st.just("reload"), st.just(0), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(_steps)
def test_no_interleaving_overspends_a_budget(steps: list[tuple[str, int, Any]]) -> None:
    asyncio.run(_spend_in_order(steps))


async def _spend_in_order(steps: list[tuple[str, int, Any]]) -> None:
    desk = make_desk()
    opened = await desk.open(TaskRequest(template="t"), agent=AGENT, opened_by="user:ann")
    task_id = opened.task.id
    taken: list[Decimal] = []
    flying: set[int] = set()
    closed = False
    for word, number, value in steps:
        call = make_call(number, "a/pay", {"x": value})
        if word == "spend":
            try:
                desk.spend(task_id, call)
            except (MandateError, ConflictError):
                continue
            assert not closed
            amount = parse_amount(value)
            assert amount is not None
            taken.append(amount)
            flying.add(number)
        elif word == "settle":
            desk.settle(task_id, call, seconds=0.5, label=Label())
            flying.discard(number)
        elif word == "close" and not closed and len(taken) > 3:
            await desk.close(task_id, TaskState.COMPLETED, "user:ann")
            closed = True
        elif word == "reload":
            store = desk._store
            desk = make_desk()
            desk._store = store
            await desk.load()
            flying.clear()
    spent = (await desk.get(task_id)).spent
    assert spent.calls == len(taken) <= 6
    assert spent.amounts.get("usd", Decimal(0)) == sum(taken, Decimal(0)) <= 20


@settings(max_examples=80, deadline=None)
@given(st.lists(st.decimals(0, 10**17, places=18), min_size=1, max_size=6))
def test_amounts_add_up_to_the_last_digit(amounts: list[Decimal]) -> None:
    text = b"""
purpose = "p"
budget = { amount = { usd = { limit = "999999999999999999", tool = "a/pay", argument = "x" } } }
[[capability]]
tool = "a/pay"
other_args = true
"""

    async def spend_all() -> None:
        desk = make_desk(parse_template("t.toml", text))
        opened = await desk.open(TaskRequest(template="t"), agent=AGENT, opened_by="user:ann")
        for number, amount in enumerate(amounts):
            desk.spend(opened.task.id, make_call(number, "a/pay", {"x": format(amount, "f")}))
        spent = (await desk.get(opened.task.id)).spent.amounts["usd"]
        scale = 10**18
        numerator = sum(int(format(a, "f").replace(".", "")) for a in amounts)
        assert spent.as_integer_ratio()[0] * scale == numerator * spent.as_integer_ratio()[1]

    asyncio.run(spend_all())
