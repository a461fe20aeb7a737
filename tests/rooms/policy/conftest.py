from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from remit.model.call import Call
from remit.model.catalogue import Tool, ToolState
from remit.model.label import Confidentiality
from remit.model.mandate import Budget, Capability, Mandate, Template
from remit.model.subject import Agent, Environment, SpiffeId, Subject
from remit.model.task import Bounds, Task
from remit.policy.bundle import Bundle
from remit.policy.engine import Question
from remit.policy.loading import default_bundle

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
WORKLOAD = SpiffeId("example.org", "/agent/support")
DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="session")
def shipped() -> Bundle:
    return default_bundle()


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., Bundle]:
    def make(text: str, **files: bytes) -> Bundle:
        return Bundle.of({"main.cedar": text.encode(), **files})

    return make


@pytest.fixture
def question() -> Callable[..., Question]:
    return ask


def ask(
    *,
    arguments: dict[str, Any] | None = None,
    agent: dict[str, Any] | None = None,
    mandate: dict[str, Any] | None = None,
    template: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    call: dict[str, Any] | None = None,
    tool: dict[str, Any] | None = None,
    bounds: dict[str, Any] | None = None,
    unknown: bool = False,
    **rest: Any,
) -> Question:
    """A question that the default bundle permits, but for what is said to differ."""
    the_agent = replace(
        Agent(
            name="support",
            spiffe_id=WORKLOAD,
            owner="ada@corp.example",
            purpose="answers customers",
            environment=Environment.DEV,
            registered_at=NOW,
        ),
        **(agent or {}),
    )
    capability = Capability(target="helpdesk/refund", other_args=True)
    the_template = replace(
        Template(name="support.refund", purpose="refunds", capabilities=(capability,)),
        **(template or {}),
    )
    the_mandate = replace(
        Mandate(
            id="task_1",
            purpose="refund order 1234",
            prompt=None,
            template="support.refund",
            template_digest=DIGEST,
            workload=WORKLOAD,
            on_behalf_of="user:u-1",
            opened_by="agent:support",
            capabilities=(capability,),
            environments=(Environment.DEV,),
            data_ceiling=Confidentiality.INTERNAL,
            egress=(),
            budget=Budget(calls=5),
            issued_at=NOW,
            expires_at=NOW + timedelta(minutes=30),
        ),
        **(mandate or {}),
    )
    the_call = replace(
        Call(
            id="call_1",
            action="call_tool",
            upstream="helpdesk",
            name="refund",
            arguments={"amount": 10} if arguments is None else arguments,
            digest=DIGEST,
        ),
        **(call or {}),
    )
    the_tool = replace(
        Tool(
            target="helpdesk/refund",
            kind="tool",
            state=ToolState.ACCEPTED,
            definition_digest=DIGEST,
            seen_digest=DIGEST,
            environment=Environment.DEV,
        ),
        **(tool or {}),
    )
    return Question(
        subject=Subject(
            workload=WORKLOAD,
            agent=the_agent,
            method="jwt-svid",
            issuer="spiffe://example.org",
            credential="0" * 64,
            expires_at=NOW + timedelta(minutes=5),
        ),
        task=replace(
            Task(
                mandate=the_mandate,
                template=the_template,
                signed_mandate="",
                mandate_digest=DIGEST,
            ),
            **(task or {}),
        ),
        call=the_call,
        tool=None if unknown else the_tool,
        bounds=replace(Bounds(in_template=True, in_mandate=True, calls_left=5), **(bounds or {})),
        approval=rest.get("approval"),
        now=rest.get("now", NOW),
    )
