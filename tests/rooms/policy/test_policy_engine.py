from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from remit.model.approval import Approval, ApprovalState
from remit.model.catalogue import ToolState
from remit.model.decision import Decision, Effect
from remit.model.label import Confidentiality, Label
from remit.model.mandate import Capability
from remit.model.subject import AgentState, Environment
from remit.model.task import TaskState
from remit.policy import floor, slices
from remit.policy.bundle import Bundle
from remit.policy.engine import NO_ANSWER, Policy, Question
from remit.policy.facts import Facts, gather

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
Ask = Callable[..., Question]
PERMIT = '@id("all") @reason("all") permit (principal, action, resource);'


@pytest.fixture
def policy(shipped: Bundle) -> Policy:
    return Policy(shipped, clock=lambda: NOW)


def _policies(decision: Decision) -> list[str]:
    return [reason.policy for reason in decision.reasons]


async def test_a_call_inside_its_mandate_is_permitted_with_everything_said(
    policy: Policy, question: Ask
):
    decision = await policy.decide(question())
    assert decision.effect is Effect.PERMIT
    assert _policies(decision) == ["within_mandate"]
    assert decision.id.startswith("dec_")
    assert decision.bundle_digest == policy.bundle_digest
    assert json.loads(decision.facts)["arguments"] == {"amount": "10"}
    assert not decision.errors


@pytest.mark.parametrize(
    ("differs", "named"),
    [
        ({"bounds": {"in_mandate": False}}, "outside_mandate"),
        ({"bounds": {"in_template": False}}, "outside_template"),
        ({"bounds": {"violations": ("`amount` is above its maximum",)}}, "argument_out_of_bounds"),
        ({"bounds": {"exhausted": ("calls",)}}, "budget_spent"),
        ({"tool": {"state": ToolState.CHANGED}}, "definition_changed"),
        ({"tool": {"state": ToolState.UNKNOWN}}, "tool_unknown"),
        ({"unknown": True}, "tool_unknown"),
        ({"tool": {"target": "helpdesk/other"}}, "tool_unknown"),
        ({"tool": {"kind": "prompt"}}, "tool_unknown"),
        ({"agent": {"state": AgentState.SUSPENDED}}, "agent_not_active"),
        ({"agent": {"owner": None}}, "agent_without_owner"),
        ({"task": {"state": TaskState.CANCELLED}}, "task_closed"),
        ({"tool": {"label": Label(Confidentiality.RESTRICTED)}}, "above_data_ceiling"),
        (
            {
                "template": {"data_ceiling": Confidentiality.PUBLIC},
                "tool": {"label": Label(Confidentiality.INTERNAL)},
            },
            "above_data_ceiling",
        ),
        (
            {"agent": {"environment": Environment.PROD}, "tool": {"environment": Environment.PROD}},
            "wrong_environment",
        ),
        ({"template": {"environments": (Environment.STAGING,)}}, "wrong_environment"),
    ],
)
async def test_each_thing_that_is_not_allowed_is_refused_by_its_own_policy(
    policy: Policy, question: Ask, differs: dict[str, Any], named: str
):
    decision = await policy.decide(question(**differs))
    assert decision.effect is Effect.DENY
    assert _policies(decision) == [named]
    assert decision.reasons[0].sentence
    assert decision.reasons[0].remedy
    assert decision.reasons[0].controls


async def test_a_mandate_that_ended_a_moment_ago_admits_nothing(policy: Policy, question: Ask):
    asked = question()
    late = replace(asked, now=asked.task.mandate.expires_at)
    assert _policies(await policy.decide(late)) == ["task_closed"]


async def test_a_prompt_catalogued_under_the_name_of_a_tool_is_not_that_tool(
    policy: Policy, question: Ask
):
    asked = question(call={"action": "get_prompt"})
    assert _policies(await policy.decide(asked)) == ["tool_unknown"]


async def test_an_action_nobody_knows_is_denied(policy: Policy, question: Ask):
    decision = await policy.decide(question(call={"action": "tasks/list\nx"}))
    assert decision.effect is Effect.DENY
    assert _policies(decision) == [NO_ANSWER]
    assert "\n" not in decision.sentence()


@pytest.mark.parametrize(
    "arguments",
    [{"x": "\ud800"}, {"x": 2**70}, {"x": float("nan")}, {"x": list(range(5000))}, {"x": object()}],
)
async def test_arguments_that_cannot_be_shown_whole_are_denied(
    policy: Policy, question: Ask, arguments: dict[str, Any]
):
    decision = await policy.decide(question(arguments=arguments))
    assert decision.effect is Effect.DENY
    assert decision.errors


async def test_hostile_names_and_values_stay_what_they_are(bundle_of: Any, question: Ask):
    policy = Policy(
        bundle_of(
            PERMIT
            + '@id("f") @reason("f") forbid (principal, action, resource) unless {'
            + 'context.arguments.hasTag("__entity") && context.arguments.getTag("__entity") == "x" &&'
            + 'context.arguments.hasTag("__extn") && !context.arguments.hasTag("absent") };'
        )
    )
    hostile = {
        "__entity": "x",
        "__extn": '{"fn":"decimal","arg":"1.0"}',
        "uid": {"type": "Agent", "id": "x"},
        "": "empty",
        'quote"\\': "\x00\u2028",
    }
    assert (await policy.decide(question(arguments=hostile))).effect is Effect.PERMIT


async def test_a_target_with_control_characters_stays_on_one_line(policy: Policy, question: Ask):
    asked = question(call={"name": "x\r\nSet-Cookie: \x1b[31m" + "y" * 9999})
    sentence = (await policy.decide(asked)).sentence()
    assert sentence.isprintable()
    assert len(sentence) < 1000


async def test_no_reason_or_record_holds_an_arguments_value(bundle_of: Any, question: Ask):
    """Cedar's own error names the operands of an overflow."""
    policy = Policy(
        bundle_of(
            PERMIT
            + '@id("over") @reason("r") forbid (principal, action, resource) when {'
            + 'context.numbers.hasTag("n") && context.numbers.getTag("n") * 9000000000000000000 > 1 };'
        )
    )
    decision = await policy.decide(question(arguments={"n": 8123456789, "s": "hunter2"}))
    assert decision.effect is Effect.DENY
    assert decision.errors == ("policy `over` could not be evaluated",)
    told = json.dumps(decision.record().body) + decision.sentence()
    assert "8123456789" not in told
    assert "hunter2" not in told
    assert "hunter2" not in repr(decision)


async def test_an_error_denies_even_where_a_permit_stands(bundle_of: Any, question: Ask):
    policy = Policy(
        bundle_of(
            PERMIT
            + '@id("broken") @reason("r") permit (principal, action, resource) when {'
            + "context.mandate.calls_left * 9223372036854775807 > 0 };"
        )
    )
    decision = await policy.decide(question())
    assert decision.effect is Effect.DENY
    assert _policies(decision) == ["broken"]


async def test_what_cedar_itself_raises_denies(
    policy: Policy, question: Ask, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret hunter2")

    monkeypatch.setattr(slices.cedar, "ask", fail)
    # An answer from memory needs no Cedar: this question differs in what is read.
    decision = await policy.decide(question(bounds={"approval_role": "nobody"}))
    assert decision.effect is Effect.DENY
    assert "hunter2" not in decision.sentence()


async def test_an_empty_set_of_permits_denies_by_default(bundle_of: Any, question: Ask):
    policy = Policy(
        bundle_of('@id("f") @reason("f") forbid (principal, action, resource) when { false };')
    )
    decision = await policy.decide(question())
    assert decision.effect is Effect.DENY
    assert decision.sentence() == "no policy permits this (deny by default)"


@pytest.mark.parametrize(
    "differs",
    [
        {"bounds": {"in_mandate": False}},
        {"bounds": {"in_template": False}},
        {"bounds": {"violations": ("x",)}},
        {"bounds": {"exhausted": ("calls",)}},
        {"agent": {"state": AgentState.RETIRED}},
        {"task": {"state": TaskState.COMPLETED}},
        {"unknown": True},
        {"tool": {"state": ToolState.CHANGED}},
    ],
)
async def test_no_bundle_widens_authority(bundle_of: Any, question: Ask, differs: dict[str, Any]):
    policy = Policy(bundle_of(PERMIT))
    assert (await policy.decide(question())).effect is Effect.PERMIT
    decision = await policy.decide(question(**differs))
    assert decision.effect is Effect.DENY
    assert _policies(decision) == [floor.BEYOND]


async def test_no_bundle_lets_an_agent_act_deeper_than_it_is_registered_for(
    bundle_of: Any, question: Ask
):
    policy = Policy(bundle_of(PERMIT))
    below = {"above": (question().task,)}
    assert (await policy.decide(question(task=below))).effect is Effect.PERMIT
    decision = await policy.decide(question(task=below, agent={"max_depth": 0}))
    assert decision.effect is Effect.DENY
    assert _policies(decision) == [floor.BEYOND]


async def test_a_bound_is_the_narrowest_of_the_chain_and_a_label_all_that_it_holds(question: Ask):
    above = question(
        mandate={"egress": (), "environments": (), "data_ceiling": Confidentiality.PUBLIC},
        task={"label": Label(Confidentiality.RESTRICTED, trusted=False)},
    ).task
    alone = gather(question(), "sha256:00").context
    context = gather(question(task={"above": (above,)}), "sha256:00").context
    assert (alone["mandate"]["environments"], context["mandate"]["environments"]) == (["dev"], [])
    assert (context["mandate"]["egress"], context["mandate"]["ceiling"]) == ([], 0)
    assert context["task"]["label"]["confidentiality"] == 3
    assert not context["task"]["label"]["trusted"]
    closed = replace(above, state=TaskState.COMPLETED)
    assert not gather(question(task={"above": (closed,)}), "x").context["task"]["open"]


async def test_no_bundle_drops_the_approval_that_a_mandate_asks(bundle_of: Any, question: Ask):
    policy = Policy(bundle_of(PERMIT))
    decision = await policy.decide(question(bounds={"approval_role": "manager"}))
    assert decision.effect is Effect.APPROVAL_REQUIRED
    assert decision.approval_role == "manager"


async def test_an_obligation_nobody_knows_denies(bundle_of: Any, question: Ask):
    bundle = bundle_of(
        '@id("p") @reason("p") @obligation("redact, watermark") permit (principal, action, resource);'
    )
    decision = await Policy(bundle, obligations=frozenset({"redact"})).decide(question())
    assert decision.effect is Effect.DENY
    assert "watermark" in decision.sentence()
    known = Policy(bundle, obligations=frozenset({"redact", "watermark"}))
    decision = await known.decide(question())
    assert [o.id for o in decision.obligations] == ["redact", "watermark"]


def _yes(question: Question, bundle: Bundle, **differs: Any) -> Approval:
    approval = Approval(
        id="apr_1",
        task=question.task.id,
        call_digest=question.call.digest,
        bundle_digest=bundle.digest,
        role="manager",
        requester="agent:support",
        on_behalf_of="user:u-1",
        target=question.call.target,
        action=question.call.action,
        sentence="",
        preview="{}",
        state=ApprovalState.APPROVED,
        asked_at=question.now,
        expires_at=question.now + timedelta(minutes=5),
        decided_by="person:ada",
    )
    return replace(approval, **differs)


async def test_the_right_yes_leads_to_a_second_decision_that_permits(
    policy: Policy, shipped: Bundle, question: Ask
):
    asked = question(bounds={"approval_role": "manager"})
    decision = await policy.decide(asked)
    assert (decision.effect, decision.approval_role) == (Effect.APPROVAL_REQUIRED, "manager")
    decision = await policy.decide(replace(asked, approval=_yes(asked, shipped)))
    assert decision.effect is Effect.PERMIT


@pytest.mark.parametrize(
    "differs",
    [
        {"state": ApprovalState.PENDING},
        {"state": ApprovalState.USED},
        {"state": ApprovalState.DENIED},
        {"call_digest": "sha256:other"},
        {"task": "task_2"},
        {"bundle_digest": "sha256:other"},
        {"expires_at": None},
        {"role": "operator"},
    ],
)
async def test_a_yes_to_anything_else_is_no_yes(
    policy: Policy, shipped: Bundle, question: Ask, differs: dict[str, Any]
):
    asked = question(bounds={"approval_role": "manager"})
    differs = {k: asked.now if k == "expires_at" else v for k, v in differs.items()}
    decision = await policy.decide(replace(asked, approval=_yes(asked, shipped, **differs)))
    assert decision.effect is Effect.APPROVAL_REQUIRED


async def test_approval_is_not_asked_for_where_it_would_not_help(policy: Policy, question: Ask):
    decision = await policy.decide(
        question(bounds={"approval_role": "manager", "in_mandate": False})
    )
    assert decision.effect is Effect.DENY
    assert decision.approval_role is None


async def test_a_policy_of_ones_own_may_ask_for_approval(bundle_of: Any, question: Ask):
    policy = Policy(
        bundle_of(
            PERMIT
            + '@id("big") @reason("big") @approval("treasurer") forbid (principal, action, resource) '
            + 'when { context.numbers.hasTag("amount") && context.numbers.getTag("amount") > 100 } '
            + 'unless { context.approval.present && context.approval.role == "treasurer" };'
        )
    )
    assert (await policy.decide(question(arguments={"amount": 100}))).effect is Effect.PERMIT
    decision = await policy.decide(question(arguments={"amount": 101}))
    assert (decision.effect, decision.approval_role) == (Effect.APPROVAL_REQUIRED, "treasurer")


async def test_every_view_of_an_argument_is_there_for_policy(bundle_of: Any, question: Ask):
    policy = Policy(
        bundle_of(
            PERMIT
            + '@id("f") @reason("f") forbid (principal, action, resource) unless {'
            + 'context.arguments.hasTag("/to/0/host") && context.arguments.getTag("/to/0/host") == "a" &&'
            + 'context.decimals.hasTag("rate") && context.decimals.getTag("rate").lessThan(decimal("0.5")) &&'
            + 'context.argument_types.hasTag("dry") && context.argument_types.getTag("dry") == "boolean" &&'
            + '["to", "rate", "dry"].containsAll(context.argument_names) &&'
            + 'context.time.now < datetime("2030-01-01") && context.time.weekday == 2 &&'
            + 'context.call.name like "ref*" && resource in Upstream::"helpdesk" };'
        )
    )
    good = {"to": [{"host": "a"}], "rate": 0.25, "dry": True}
    assert (await policy.decide(question(arguments=good))).effect is Effect.PERMIT
    for bad in ({**good, "dry": "true"}, {**good, "extra": 1}, {**good, "rate": 0.5}, {}):
        assert (await policy.decide(question(arguments=bad))).effect is Effect.DENY


async def test_a_remembered_answer_is_never_given_to_another_question(
    policy: Policy, question: Ask
):
    permitted = await policy.decide(question(arguments={"n": 1}))
    again = await policy.decide(question(arguments={"n": 2}))
    assert permitted.id != again.id
    assert permitted.facts != again.facts
    other = await policy.decide(question(agent={"state": AgentState.SUSPENDED}))
    assert other.effect is Effect.DENY
    assert (await policy.decide(question())).effect is Effect.PERMIT


async def test_memory_is_bounded(policy: Policy, question: Ask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slices, "MAX_REMEMBERED", 3)
    policy.bundle.slices["call_tool"].forget()
    for number in range(6):
        await policy.decide(question(agent={"autonomy": number % 5, "name": f"a{number}"}))
    part = policy.bundle.slices["call_tool"]
    assert len(part._remembered) <= 3


async def test_a_bundle_put_in_place_decides_from_then_on(
    policy: Policy, bundle_of: Any, question: Ask
):
    policy.replace(bundle_of('@id("no") @reason("no") forbid (principal, action, resource);'))
    decision = await policy.decide(question())
    assert _policies(decision) == ["no"]
    assert decision.bundle_digest == policy.bundle_digest
    assert "main.cedar" in policy.bundle_files()


async def test_facts_read_back_are_the_facts_that_were_decided_on(policy: Policy, question: Ask):
    decision = await policy.decide(question())
    assert Facts.read(decision.facts).document() == decision.facts
    for bad in (
        b"",
        b"{}",
        b"[]",
        decision.facts[:-1],
        decision.facts.replace(b'"version":1', b'"version":2'),
    ):
        with pytest.raises(Exception, match=r"facts") as refused:
            Facts.read(bad)
        assert not isinstance(refused.value, msgspec.MsgspecError)


def test_the_list_shows_what_the_task_could_be_allowed(policy: Policy, question: Ask):
    asked = question()
    tool = asked.tool
    assert tool is not None
    elsewhere = replace(tool, target="helpdesk/delete")
    changed = replace(tool, state=ToolState.CHANGED)
    far = replace(tool, environment=Environment.PROD)
    stray = replace(tool, kind="nonsense")
    shown = policy.would_list(asked.subject, asked.task, [tool, elsewhere, changed, far, stray])
    assert shown == [tool]


def test_the_list_shows_what_a_yes_would_allow(policy: Policy, question: Ask):
    capability = Capability(target="helpdesk/refund", approval="manager")
    asked = question(
        mandate={"capabilities": (capability,)}, template={"capabilities": (capability,)}
    )
    assert policy.would_list(asked.subject, asked.task, [asked.tool]) == [asked.tool]


def test_the_list_looks_past_arguments_and_past_nothing_else(bundle_of: Any, question: Ask):
    policy = Policy(
        bundle_of(
            '@id("p") @reason("p") permit (principal, action, resource) when { context.arguments.hasTag("a") };'
            '@id("f") @reason("f") forbid (principal, action, resource) unless { context.arguments.hasTag("a") };'
            '@id("g") @reason("g") forbid (principal, action, resource) when { context.subject.autonomy > 3 };'
        ),
        clock=lambda: NOW,
    )
    asked = question()
    assert policy.would_list(asked.subject, asked.task, [asked.tool]) == [asked.tool]
    bold = question(agent={"autonomy": 4})
    assert policy.would_list(bold.subject, bold.task, [bold.tool]) == []


def test_a_wildcard_stands_for_resources_only(policy: Policy, question: Ask):
    capability = Capability(target="docs/file:///*", action="read_resource")
    wild = Capability(target="docs/*")
    asked = question(
        mandate={"capabilities": (capability, wild)}, template={"capabilities": (capability, wild)}
    )
    page = replace(asked.tool, target="docs/file:///a", kind="resource")
    tool = replace(asked.tool, target="docs/anything")
    assert policy.would_list(asked.subject, asked.task, [page, tool]) == [page]
