from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from remit.model.catalogue import ToolState
from remit.model.errors import EvidenceError, InputError, NotFoundError
from remit.model.label import Confidentiality
from remit.model.subject import Environment
from remit.policy import catalogue as module
from remit.policy.catalogue import Catalogue, Definition, ToolOptions, UpstreamOptions
from remit.policy.definitions import MAX_DEFINITION_BYTES, read_definition
from remit.testing.catalogue import MemoryCatalogue
from remit.testing.evidence import MemoryRecorder

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def define(name: str = "refund", **more: Any) -> Definition:
    return Definition(name=name, json_bytes=json.dumps({"name": name, **more}).encode())


class Stage:
    def __init__(self, **options: Any) -> None:
        self.store = MemoryCatalogue()
        self.recorder = MemoryRecorder()
        self.catalogue = self.again(**options)

    def again(self, **options: Any) -> Catalogue:
        return Catalogue(
            self.store,
            self.recorder,
            upstreams={"helpdesk": UpstreamOptions(**options), "git": UpstreamOptions()},
            clock=lambda: NOW,
        )


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_definition_is_pinned_at_first_sight_and_recorded(stage: Stage):
    (tool,) = stage.catalogue.observe("helpdesk", "tool", [define()])
    assert tool.state is ToolState.ACCEPTED
    assert tool.definition_digest == tool.seen_digest
    assert tool.first_seen_at == NOW
    assert stage.catalogue.find("helpdesk/refund") is tool
    assert stage.recorder.kinds == ["tool.catalogued"]
    stage.catalogue.observe("helpdesk", "tool", [define()])
    assert stage.recorder.kinds == ["tool.catalogued"]


async def test_a_definition_nobody_accepted_is_withheld_where_the_operator_wants_to_look_first():
    stage = Stage(accept_first=False)
    (tool,) = stage.catalogue.observe("helpdesk", "tool", [define()])
    assert tool.state is ToolState.UNKNOWN
    assert tool.definition_digest == ""
    tool = await stage.catalogue.accept("helpdesk/refund", "person:ada")
    assert tool.state is ToolState.ACCEPTED
    assert stage.recorder.records[-1][0].body["by"] == "person:ada"


async def test_what_the_operator_took_out_is_catalogued_no_more_and_recorded_once(stage: Stage):
    stage.catalogue.observe("helpdesk", "tool", [define(), define("close")])
    stage.catalogue.observe("git", "tool", [define()])
    stage.catalogue.keep_only("helpdesk", {"close"})
    assert stage.catalogue.find("helpdesk/refund") is None
    assert [tool.target for tool in stage.catalogue.list()] == ["git/refund", "helpdesk/close"]
    step, _ = stage.recorder.records[-1]
    assert (step.kind, step.body["target"]) == ("tool.removed", "helpdesk/refund")

    again = stage.again()
    await again.load()
    again.keep_only("helpdesk", {"close"})
    assert [tool.target for tool in again.list()] == ["git/refund", "helpdesk/close"]
    assert stage.recorder.kinds.count("tool.removed") == 1
    with pytest.raises(NotFoundError):
        await again.accept("helpdesk/refund", "person:ada")

    # Back in the configuration it is there as any other, and after a start as well.
    (tool,) = again.observe("helpdesk", "tool", [define(description="new")])
    assert tool.state is ToolState.ACCEPTED
    later = stage.again()
    await later.load()
    assert later.find("helpdesk/refund") == tool


async def test_a_changed_definition_is_withheld_until_somebody_accepts_it(stage: Stage):
    stage.catalogue.observe("helpdesk", "tool", [define(description="good")])
    (tool,) = stage.catalogue.observe("helpdesk", "tool", [define(description="evil")])
    assert tool.state is ToolState.CHANGED
    assert tool.definition_digest != tool.seen_digest
    entry = stage.catalogue.entry("helpdesk/refund")
    assert entry is not None
    assert (b"good" in entry.pinned, b"evil" in entry.seen) == (True, True)
    assert stage.recorder.kinds[-1] == "tool.changed"
    tool = await stage.catalogue.accept("helpdesk/refund", "person:ada")
    assert tool.state is ToolState.ACCEPTED
    assert stage.recorder.kinds[-1] == "tool.accepted"
    assert stage.recorder.durable == len(stage.recorder.records)


def test_going_back_to_what_was_accepted_needs_nobody(stage: Stage):
    stage.catalogue.observe("helpdesk", "tool", [define(description="good")])
    stage.catalogue.observe("helpdesk", "tool", [define(description="evil")])
    (tool,) = stage.catalogue.observe("helpdesk", "tool", [define(description="good")])
    assert tool.state is ToolState.ACCEPTED


def test_the_order_of_keys_and_white_space_are_no_change(stage: Stage):
    stage.catalogue.observe("helpdesk", "tool", [Definition(name="x", json_bytes=b'{"a":1,"b":2}')])
    (tool,) = stage.catalogue.observe(
        "helpdesk", "tool", [Definition(name="x", json_bytes=b'{ "b": 2.0, "a": 1 }')]
    )
    assert tool.state is ToolState.ACCEPTED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":NaN}',
        b'{"a":9007199254740993}',
        b'{"a":"\\ud800"}',
        b"\xff\xfe",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":"' + b"x" * MAX_DEFINITION_BYTES + b'"}',
    ],
)
def test_a_definition_without_one_reading_is_left_out_and_withholds_what_was_known(
    stage: Stage, data: bytes
):
    bad = Definition(name="refund", json_bytes=data)
    assert stage.catalogue.observe("helpdesk", "tool", [bad, define("other")])[0].target == (
        "helpdesk/other"
    )
    assert stage.catalogue.find("helpdesk/refund") is None
    stage.catalogue.observe("helpdesk", "tool", [define()])
    stage.catalogue.observe("helpdesk", "tool", [bad])
    tool = stage.catalogue.find("helpdesk/refund")
    assert tool is not None
    assert tool.state is ToolState.CHANGED


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "x" * 3000])
def test_a_name_that_cannot_be_shown_is_left_out(stage: Stage, name: str):
    assert stage.catalogue.observe("helpdesk", "tool", [define(name)]) == []


def test_one_name_with_two_definitions_is_not_accepted(stage: Stage):
    twice = [define(description="a"), define(description="b")]
    (tool,) = stage.catalogue.observe("helpdesk", "tool", twice)
    assert tool.state is ToolState.UNKNOWN
    stage.catalogue.observe("helpdesk", "tool", [define("other")])
    (tool,) = stage.catalogue.observe("helpdesk", "tool", [define("other"), define("other", x=1)])
    assert tool.state is ToolState.CHANGED


def test_one_name_for_two_kinds_is_not_what_was_accepted(stage: Stage):
    stage.catalogue.observe("helpdesk", "tool", [define()])
    (tool,) = stage.catalogue.observe("helpdesk", "prompt", [define()])
    assert tool.state is ToolState.CHANGED
    assert tool.kind == "tool"


def test_upstreams_do_not_shadow_each_other(stage: Stage):
    stage.catalogue.observe("helpdesk", "tool", [define(description="ours")])
    stage.catalogue.observe("git", "tool", [define(description="theirs")])
    tool = stage.catalogue.find("helpdesk/refund")
    assert tool is not None
    assert tool.state is ToolState.ACCEPTED
    assert [t.target for t in stage.catalogue.list()] == ["git/refund", "helpdesk/refund"]
    assert [t.target for t in stage.catalogue.list("git")] == ["git/refund"]


def test_an_upstream_that_is_not_configured_or_has_a_slash_is_refused(stage: Stage):
    with pytest.raises(InputError):
        stage.catalogue.observe("nobody", "tool", [define()])
    with pytest.raises(InputError):
        stage.catalogue.observe("helpdesk", "weather", [define()])
    with pytest.raises(InputError):
        Catalogue(stage.store, stage.recorder, upstreams={"a/b": UpstreamOptions()})


def test_an_upstream_that_renames_its_tools_cannot_fill_the_memory(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MAX_DEFINITIONS", 3)
    with pytest.raises(InputError):
        stage.catalogue.observe("helpdesk", "tool", [define(f"t{n}") for n in range(4)])
    assert stage.catalogue.list() == []
    stage.catalogue.observe("helpdesk", "tool", [define(f"t{n}") for n in range(3)])
    with pytest.raises(InputError):
        stage.catalogue.observe("helpdesk", "tool", [define("u0")])
    stage.catalogue.observe("helpdesk", "tool", [define("t0")])


@pytest.mark.parametrize(
    "hints",
    [
        {"readOnlyHint": True},
        {"readOnlyHint": True, "destructiveHint": False, "openWorldHint": False},
        {},
        {"readOnlyHint": "yes"},
    ],
)
def test_a_hint_never_lowers_the_risk(stage: Stage, hints: dict[str, Any]):
    (tool,) = stage.catalogue.observe("helpdesk", "tool", [define(annotations=hints)])
    assert tool.side_effects


@pytest.mark.parametrize(
    ("hints", "changes"),
    [
        ({}, None),
        ({"readOnlyHint": True}, None),
        ({"destructiveHint": False}, None),
        ({"destructiveHint": True}, True),
        ({"readOnlyHint": False}, True),
        ({"readOnlyHint": True, "destructiveHint": True}, True),
        ({"readOnlyHint": "true"}, True),
        ({"destructiveHint": 0}, True),
    ],
)
def test_what_hints_claim(hints: dict[str, Any], changes: bool | None):
    assert read_definition(define(annotations=hints)).changes is changes


def test_a_hint_raises_the_risk_of_a_prompt(stage: Stage):
    plain, bold = stage.catalogue.observe(
        "helpdesk", "prompt", [define("a"), define("b", annotations={"destructiveHint": True})]
    )
    assert (plain.side_effects, bold.side_effects) == (False, True)


async def test_the_operators_word_stands_and_is_the_one_of_today():
    word = ToolOptions(
        side_effects=False,
        environment=Environment.PROD,
        confidentiality=Confidentiality.CONFIDENTIAL,
        categories=("pii",),
        destinations=("to",),
    )
    stage = Stage(environment=Environment.STAGING, tools={"refund": word})
    destructive = define(annotations={"destructiveHint": True})
    tool, other = stage.catalogue.observe("helpdesk", "tool", [destructive, define("other")])
    assert not tool.side_effects
    assert tool.environment is Environment.PROD
    assert tool.label.confidentiality is Confidentiality.CONFIDENTIAL
    assert tool.label.categories == {"pii"}
    assert tool.destinations == ("to",)
    assert other.environment is Environment.STAGING
    later = stage.again(trusted=True)
    await later.load()
    found = later.find("helpdesk/refund")
    assert found is not None
    assert found.side_effects
    assert found.environment is Environment.DEV
    assert found.label.trusted


async def test_what_was_pinned_survives_a_restart(stage: Stage):
    stage.catalogue.observe("helpdesk", "tool", [define(description="good")])
    later = stage.again()
    await later.load()
    (tool,) = later.observe("helpdesk", "tool", [define(description="evil")])
    assert tool.state is ToolState.CHANGED


async def test_accepting_what_was_never_seen_is_refused(stage: Stage):
    with pytest.raises(NotFoundError):
        await stage.catalogue.accept("helpdesk/nothing", "person:ada")


async def test_an_acceptance_that_cannot_be_recorded_does_not_happen(stage: Stage):
    stage.catalogue.observe("helpdesk", "tool", [define(description="good")])
    stage.catalogue.observe("helpdesk", "tool", [define(description="evil")])
    stage.recorder.fail = True
    with pytest.raises(EvidenceError):
        await stage.catalogue.accept("helpdesk/refund", "person:ada")
    tool = stage.catalogue.find("helpdesk/refund")
    assert tool is not None
    assert tool.state is ToolState.CHANGED


async def test_a_definition_swapped_while_it_is_accepted_is_not_the_one_accepted(stage: Stage):
    stage.catalogue.observe("helpdesk", "tool", [define(description="good")])
    stage.catalogue.observe("helpdesk", "tool", [define(description="better")])
    held = asyncio.Event()
    real = stage.recorder.barrier

    async def slow() -> None:
        await held.wait()
        await real()

    stage.recorder.barrier = slow  # type: ignore[method-assign]
    accepting = asyncio.create_task(stage.catalogue.accept("helpdesk/refund", "person:ada"))
    await asyncio.sleep(0)
    stage.catalogue.observe("helpdesk", "tool", [define(description="evil")])
    held.set()
    tool = await accepting
    assert tool.state is ToolState.CHANGED
    (tool,) = stage.catalogue.observe("helpdesk", "tool", [define(description="better")])
    assert tool.state is ToolState.ACCEPTED


def test_a_resource_of_a_configured_upstream_stands_under_its_options(stage: Stage):
    tool = stage.catalogue.find("helpdesk/file:///etc/notes")
    assert tool is not None
    assert (tool.kind, tool.state, tool.side_effects) == ("resource", ToolState.ACCEPTED, False)
    assert not tool.label.trusted
    assert stage.catalogue.find("nobody/file:///x") is None
    assert stage.catalogue.find("helpdesk/refund") is None
    assert stage.catalogue.find("") is None


def test_a_resource_may_grow_but_not_become_another(stage: Stage):
    def page(**more: Any) -> Definition:
        data = {"uri": "file:///a", "name": "a", **more}
        return Definition(name="file:///a", json_bytes=json.dumps(data).encode())

    (tool,) = stage.catalogue.observe("helpdesk", "resource", [page(size=1)])
    grown = page(size=2, annotations={"lastModified": "2026-11-24T00:00:00Z"})
    (tool,) = stage.catalogue.observe("helpdesk", "resource", [grown])
    assert tool.state is ToolState.ACCEPTED
    (tool,) = stage.catalogue.observe("helpdesk", "resource", [page(description="read me")])
    assert tool.state is ToolState.CHANGED


def test_more_resources_than_can_be_pinned_hide_none(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_DEFINITIONS", 2)
    pages = [define(f"file:///{n}") for n in range(5)]
    assert stage.catalogue.observe("helpdesk", "resource", pages) == []
    tool = stage.catalogue.find("helpdesk/file:///4")
    assert tool is not None
    assert tool.state is ToolState.ACCEPTED
