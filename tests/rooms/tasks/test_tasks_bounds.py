from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from remit.model.call import Call
from remit.model.label import Confidentiality
from remit.model.mandate import AmountLimit, Budget, Capability, Mandate, Spent, Template
from remit.model.subject import Environment, SpiffeId
from remit.model.task import Bounds, Task
from remit.tasks import bounds
from remit.tasks.schemas import MAX_MATCHED

NOW = datetime(2026, 1, 2, tzinfo=UTC)
READ = "read_resource"


def task(
    template: tuple[Capability, ...],
    mandate: tuple[Capability, ...] | None = None,
    *,
    budget: Budget | None = None,
    spent: Spent | None = None,
) -> Task:
    budget = budget or Budget()
    bound = Template(name="t", purpose="p", capabilities=template, budget=budget)
    return Task(
        mandate=Mandate(
            id="task_1",
            purpose="p",
            prompt=None,
            template="t",
            template_digest="",
            workload=SpiffeId("test.example", "/a"),
            on_behalf_of="user:ann",
            opened_by="user:ann",
            capabilities=template if mandate is None else mandate,
            environments=(Environment.DEV,),
            data_ceiling=Confidentiality.INTERNAL,
            egress=(),
            budget=budget,
            issued_at=NOW,
            expires_at=NOW,
        ),
        template=bound,
        signed_mandate="",
        mandate_digest="",
        spent=spent or Spent(),
    )


def measured(
    schema: Mapping[str, Any], arguments: Mapping[str, Any], *, other_args: bool = False
) -> Bounds:
    capability = Capability(target="a/b", args=schema, other_args=other_args)
    return bounds.measure(task((capability,)), call(**arguments))


def call(target: str = "a/b", action: str = "call_tool", **arguments: Any) -> Call:
    upstream, _, name = target.partition("/")
    return Call(
        id="call_1", action=action, upstream=upstream, name=name, arguments=arguments, digest=""
    )


def test_a_target_that_nobody_named_is_outside_of_both() -> None:
    found = bounds.measure(task((Capability(target="a/b"),)), call("a/c"))

    assert not found.in_template
    assert not found.in_mandate


def test_an_action_of_another_kind_is_outside() -> None:
    found = bounds.measure(task((Capability(target="a/b"),)), call(action="get_prompt"))

    assert not found.in_mandate


def test_a_mandate_for_what_the_template_no_longer_allows_is_outside_of_it() -> None:
    capability = Capability(target="a/b")

    found = bounds.measure(task((), (capability,)), call())

    assert found.in_mandate
    assert not found.in_template


@pytest.mark.parametrize(
    ("schema", "value", "sentence"),
    [
        ({"maximum": 100}, 500, "argument `x` may be at most 100"),
        ({"const": "1234"}, "secret", 'argument `x` has to be "1234"'),
        ({"enum": ["a", 1]}, "secret", 'argument `x` has to be one of ["a", 1]'),
        ({"type": "number"}, "secret", 'argument `x` has to be of type "number"'),
        ({"pattern": "^a"}, "secret", 'argument `x` has to match "^a"'),
        ({"maxLength": 3}, "secret", "argument `x` may have at most 3 characters"),
        ({"format": "email"}, "secret", 'argument `x` has to be a valid "email"'),
        (
            {"not": {"const": "secret"}},
            "secret",
            "argument `x` breaks the rule `not` of its schema",
        ),
        (
            {"items": {"type": "integer"}},
            [1, "secret"],
            'argument `x` at `[1]` has to be of type "integer"',
        ),
        (
            {"properties": {"k": {"type": "integer"}}},
            {"k": "secret"},
            'argument `x` at `.k` has to be of type "integer"',
        ),
        (
            {"additionalProperties": {"type": "integer"}},
            {"secret": "secret"},
            'argument `x` at `.*` has to be of type "integer"',
        ),
        (
            {"additionalProperties": False},
            {"secret": 1},
            "argument `x` breaks the rule `additionalProperties` of its schema",
        ),
    ],
)
def test_a_violation_says_the_argument_and_the_rule_and_never_the_value(
    schema: dict[str, Any], value: Any, sentence: str
) -> None:
    found = measured({"x": schema}, {"x": value})

    assert found.violations == (sentence,)
    assert "secret" not in sentence


@pytest.mark.parametrize(
    "value",
    ["a" * (MAX_MATCHED + 1), ["a" * MAX_MATCHED, "a"], {"k" * MAX_MATCHED: "a"}],
    ids=["text", "list", "names"],
)
def test_what_is_too_long_to_match_is_outside(value: Any) -> None:
    for schema in ({"pattern": "^a"}, {"items": {"pattern": "^a"}}):
        assert measured({"x": schema}, {"x": value}).violations == (
            f"argument `x` is too long for the pattern of its schema: {MAX_MATCHED} characters fit",
        )
    assert measured({"x": {"type": ["string", "array", "object"]}}, {"x": value}).violations == ()


def test_as_much_as_fits_is_matched() -> None:
    assert measured({"x": {"pattern": "^a"}}, {"x": "a" * MAX_MATCHED}).violations == ()
    assert measured({"x": {"pattern": "^b"}}, {"x": "a" * MAX_MATCHED}).violations == (
        'argument `x` has to match "^b"',
    )


def test_an_argument_without_a_schema_is_refused() -> None:
    assert measured({}, {"x": 1}).violations == ("argument `x` is not allowed",)
    assert measured({}, {"x": 1}, other_args=True).violations == ()


@pytest.mark.parametrize("name", ["x\ny", "\u202eevil", "\x1b[2J", "`", "\ud800", "x" * 5000])
def test_a_callers_own_argument_name_is_shown_escaped_and_cut_short(name: str) -> None:
    (sentence,) = measured({}, {name: 1}).violations

    assert sentence.isprintable()
    assert len(sentence) < 200
    assert sentence.count("`") == 2
    sentence.encode()


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], {"\ud800": 1}, object(), {1: 2}])
def test_a_value_that_cannot_be_checked_is_a_violation(value: Any) -> None:
    assert measured({"x": {"type": "string"}}, {"x": value}).violations


def test_many_violations_are_cut_short() -> None:
    found = measured({}, {f"x{index}": 1 for index in range(1000)})

    assert len(found.violations) == 21
    assert found.violations[-1] == "and 980 more rules are broken"


@pytest.mark.parametrize(
    "schema", [{"const": 1}, {"allOf": [{"const": 1}]}, {"allOf": [{"allOf": [{"const": 1}]}]}]
)
def test_a_required_constant_that_is_absent_is_a_violation(schema: dict[str, Any]) -> None:
    assert measured({"x": schema}, {}).violations == ("argument `x` has to be given",)


def test_another_argument_may_be_left_out() -> None:
    assert measured({"x": {"maximum": 3}}, {}).violations == ()


@pytest.mark.parametrize("value", [True, 1.0000001, "1"])
def test_a_constant_is_not_met_by_what_only_resembles_it(value: Any) -> None:
    assert measured({"x": {"const": 1}}, {"x": value}).violations


def test_a_call_has_to_satisfy_mandate_and_template() -> None:
    mine = Capability(target="a/b", args={"x": {"minimum": 5}})
    bound = Capability(target="a/b", args={"x": {"maximum": 3}})

    for value in (1, 4, 9):
        assert bounds.measure(task((bound,), (mine,)), call(x=value)).violations


def test_one_satisfied_capability_of_several_is_enough() -> None:
    small = Capability(target="a/b", args={"x": {"maximum": 10}})
    large = Capability(target="a/b", args={"x": {"maximum": 100}}, approval="manager")

    assert bounds.measure(task((large, small)), call(x=5)).approval_role is None
    assert bounds.measure(task((large, small)), call(x=50)).approval_role == "manager"
    assert bounds.measure(task((large, small)), call(x=500)).violations


def test_a_mandate_may_ask_approval_where_its_template_does_not() -> None:
    asked = (Capability(target="a/b", approval="manager"),)

    assert (
        bounds.measure(task((Capability(target="a/b"),), asked), call()).approval_role == "manager"
    )


def test_two_different_approvals_cannot_be_met_by_one() -> None:
    asked = (Capability(target="a/b", approval="lead"),)
    bound = (Capability(target="a/b", approval="manager"),)

    (sentence,) = bounds.measure(task(bound, asked), call()).violations

    assert "no one approval" in sentence


@pytest.mark.parametrize(
    "uri",
    [
        "file:///data/../etc/passwd",
        "file:///data/%2e%2e/etc/passwd",
        "file:///data/%2E%2e%2Fetc/passwd",
        "file:///data/%252e%252e/etc/passwd",
        "file:///data/%25252525252e%25252525252e/etc/passwd",
        "file:///data/..;/etc/passwd",
        "file:///data/..\\etc\\passwd",
        "file:///data/..%5cetc",
        "file:///data/a/..",
        "file:///data/..?x",
        "file:///data/..#x",
        "file:///database",
        "file:///DATA/x",
        "file://other/data/x",
        "http://data/x",
    ],
)
def test_a_star_reaches_no_further_than_it_reads(uri: str) -> None:
    capability = Capability(target="files/file:///data/*", action=READ)

    found = bounds.measure(task((capability,)), call(f"files/{uri}", READ))

    assert not found.in_mandate


@pytest.mark.parametrize("rest", ["a", "a/b", "a..b", ".hidden", "a%20b", "...", ""])
def test_a_star_stands_for_any_rest(rest: str) -> None:
    capability = Capability(target="files/file:///data/*", action=READ)

    found = bounds.measure(task((capability,)), call(f"files/file:///data/{rest}", READ))

    assert found.in_mandate
    assert found.in_template
    assert found.violations == ()


def test_a_star_means_itself_in_a_tools_name() -> None:
    capability = Capability(target="a/b", action="call_tool")

    assert not bounds.measure(task((capability,)), call("a/bc")).in_mandate


USD = AmountLimit(name="usd", limit=Decimal(100), target="a/b", argument="x")
ANY = (Capability(target="a/b", other_args=True), Capability(target="a/c", other_args=True))


@pytest.mark.parametrize("value", [True, -1, float("nan"), "-5", "1e9", None, [], "abc"])
def test_an_argument_that_a_budget_counts_has_to_be_an_amount(value: Any) -> None:
    found = bounds.measure(task(ANY, budget=Budget(amounts=(USD,))), call(x=value))

    assert found.violations == (
        "argument `x` counts towards the budget `usd` and has to be an amount from 0",
    )


def test_an_argument_that_a_budget_counts_cannot_be_left_out() -> None:
    assert bounds.measure(task(ANY, budget=Budget(amounts=(USD,))), call()).violations


@pytest.mark.parametrize(("value", "over"), [(100, ()), ("100.00", ()), (100.01, ("usd",))])
def test_an_amount_may_reach_its_limit_and_not_pass_it(value: Any, over: tuple[str, ...]) -> None:
    assert bounds.exhausted(task(ANY, budget=Budget(amounts=(USD,))), call(x=value)) == over


def test_the_smallest_amount_counts_beside_the_largest() -> None:
    limit = replace(USD, limit=Decimal(10**17))
    spent = Spent(amounts={"usd": Decimal(10**17)})
    full = task(ANY, budget=Budget(amounts=(limit,)), spent=spent)

    assert bounds.exhausted(full, call(x="0.000000000000000001")) == ("usd",)


def test_several_sources_add_up_to_one_amount() -> None:
    other = replace(USD, argument="y")
    both = task(ANY, budget=Budget(amounts=(USD, other)))

    assert bounds.exhausted(both, call(x=60, y=60)) == ("usd",)
    assert bounds.costs((USD, other, USD), call(x=60, y=6)) == {"usd": Decimal(66)}


def test_a_call_of_another_tool_costs_no_amount() -> None:
    assert bounds.costs((USD,), call("a/c", x=50)) == {}


def test_what_runs_counts_towards_the_seconds() -> None:
    short = task(ANY, budget=Budget(seconds=10), spent=Spent(seconds=4))

    assert bounds.exhausted(short, call(), running_seconds=5.9) == ()
    assert bounds.exhausted(short, call(), running_seconds=6) == ("seconds",)


def test_calls_left_is_the_lesser_of_both_budgets() -> None:
    mine = task(ANY, budget=Budget(calls=5), spent=Spent(calls=2))
    tighter = replace(mine, template=replace(mine.template, budget=Budget(calls=3)))

    assert bounds.measure(mine, call()).calls_left == 3
    assert bounds.measure(tighter, call()).calls_left == 1
    assert bounds.measure(task(ANY), call()).calls_left is None
