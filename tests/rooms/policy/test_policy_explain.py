from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from remit.model.errors import InputError
from remit.policy.bundle import Bundle
from remit.policy.engine import Policy, Question
from remit.policy.explain import explain


async def test_a_decision_made_again_agrees_and_shows_the_facts_each_policy_read(
    shipped: Bundle, question: Callable[..., Question]
):
    decision = await Policy(shipped).decide(question(bounds={"exhausted": ("calls",)}))
    found = explain(decision.record().body, decision.facts, shipped)
    assert found.agrees
    policy = found.policies[0]
    assert policy.policy == "budget_spent"
    assert policy.facts == {"mandate.exhausted": ["calls"]}
    assert policy.text is not None
    assert policy.text.startswith('@control("') or '@id("budget_spent")' in policy.text
    assert policy.file == "20-mandate.cedar"


async def test_another_bundle_is_told_as_a_difference(
    shipped: Bundle, bundle_of: Any, question: Callable[..., Question]
):
    decision = await Policy(shipped).decide(question())
    other = bundle_of('@id("no") @reason("no") forbid (principal, action, resource);')
    found = explain(decision.record().body, decision.facts, other)
    assert not found.agrees
    assert len(found.differences) == 3


async def test_an_error_is_explained_in_cedars_own_words(
    bundle_of: Any, question: Callable[..., Question]
):
    bundle = bundle_of(
        '@id("over") @reason("r") permit (principal, action, resource) when {'
        "context.mandate has calls_left && context.mandate.calls_left * 9223372036854775807 > 0 };"
    )
    decision = await Policy(bundle).decide(question())
    found = explain(decision.record().body, decision.facts, bundle)
    assert found.agrees
    assert "overflow" in found.errors[0]


async def test_no_facts_are_no_explanation(shipped: Bundle, question: Callable[..., Question]):
    decision = await Policy(shipped).decide(question(arguments={"x": float("nan")}))
    with pytest.raises(InputError):
        explain(decision.record().body, decision.facts, shipped)
    with pytest.raises(InputError):
        explain(decision.record().body, b"{}", shipped)
