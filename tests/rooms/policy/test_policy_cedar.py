from __future__ import annotations

import json

import pytest

from remit.model.errors import ConfigError
from remit.policy import cedar


def _reads(condition: str) -> set[str]:
    policies, _ = cedar.parse(f"permit (principal, action, resource) when {{ {condition} }};")
    return {".".join(path) for path in cedar.reads(policies["policy0"])}


@pytest.mark.parametrize(
    ("condition", "read"),
    [
        ("context.tool.state == context.subject.state", {"tool.state", "subject.state"}),
        (
            "context.mandate has calls_left && context.mandate.calls_left > 1",
            {"mandate.calls_left"},
        ),
        ("context has tool", {"tool"}),
        ('context.arguments.hasTag("a") && context.arguments.getTag("a") == "b"', {"arguments"}),
        ('context.call.name like "a*"', {"call.name"}),
        (
            "if context.task.open then true else context.tool.side_effects",
            {"task.open", "tool.side_effects"},
        ),
        ('["a"].contains(context.tool.kind)', {"tool.kind"}),
        ("{a: context.tool.label}.a.trusted", {"tool.label"}),
        ('context["tool"]["kind"] == "tool"', {"tool.kind"}),
        ("context == {}", {""}),
        ('context.time.now < datetime("2026-01-01")', {"time.now"}),
        (
            "(if context.task.open then context.tool.label else context.task.label).trusted",
            {"task.open", "tool.label", "task.label"},
        ),
        ("true", set()),
    ],
)
def test_what_a_policy_reads_is_found(condition: str, read: set[str]):
    assert _reads(condition) == read


def test_a_whole_context_that_slips_into_an_expression_counts_as_all_of_it():
    assert _reads("(if true then context else context).task.open") == {""}


def test_a_policy_keeps_its_sense_on_the_way_through_its_json_form():
    text = 'forbid (principal in Agent::"a", action in [Action::"x"], resource is Target in Upstream::"u") unless { context.a.b like "x*" };'
    policies, _ = cedar.parse(text)
    again, _ = cedar.parse(cedar.render(policies["policy0"]))
    assert again["policy0"] == policies["policy0"]


@pytest.mark.parametrize(
    "text",
    [
        "permit",
        "permit (principal);",
        'permit (principal, action, resource) when { context."x };',
        "\x00",
    ],
)
def test_what_is_not_cedar_is_refused_in_one_line(text: str):
    with pytest.raises(ConfigError) as refused:
        cedar.parse(text)
    assert "\n" not in str(refused.value)


def test_a_request_that_does_not_fit_the_schema_is_an_error_and_no_permit():
    policies = cedar.handle(
        {"a": cedar.parse("permit (principal, action, resource);")[0]["policy0"]}
    )
    schema = cedar.schema(
        "entity A; action x appliesTo { principal: [A], resource: [A], context: { n: Long } };"
    )
    request = {
        "principal": {"type": "A", "id": "a"},
        "action": {"type": "Action", "id": "x"},
        "resource": {"type": "A", "id": "a"},
    }
    fits = cedar.ask(policies, {**request, "context": json.dumps({"n": 1})}, "[]", schema)
    assert fits.allowed
    for context in ({}, {"n": "1"}, {"n": 1, "extra": 1}, {"n": 1.5}):
        answer = cedar.ask(policies, {**request, "context": json.dumps(context)}, "[]", schema)
        assert not answer.allowed
        assert answer.errors
