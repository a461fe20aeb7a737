"""A task desk on memory, with a template that bounds refunds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from remit.model.call import Call
from remit.model.subject import Agent, Claim, Environment, SpiffeId, Subject
from remit.model.task import Task
from remit.tasks.delegating import DelegationLimits
from remit.tasks.desk import TaskDesk
from remit.tasks.request import Opened, TaskRequest
from remit.tasks.templates import parse_template
from remit.testing.evidence import MemoryRecorder
from remit.testing.identity import ManualClock
from remit.testing.tasks import MemoryAgents, MemorySigner, MemoryTasks

REFUND = b"""
purpose = "Refund customers"
environments = ["dev", "staging"]
data_ceiling = "confidential"
egress = ["payments.corp.example"]
expires_seconds = 1800
budget = { calls = 5, seconds = 60, amount = { usd = { limit = 100, tool = "payments/refund", argument = "amount" } } }

[[capability]]
tool = "crm/get_customer"
args = { id = { type = "string", maxLength = 8 } }

[[capability]]
tool = "payments/refund"
args = { order = { type = "string" }, amount = { type = "number", maximum = 100 } }

[[capability]]
tool = "payments/void"
args = { order = { const = "1234" } }
approval = "manager"

[[capability]]
resource = "files/file:///data/*"

[[capability]]
prompt = "crm/summary"
other_args = true
"""

ANN = "user:ann@corp.example"
AGENT = Agent(
    name="support",
    spiffe_id=SpiffeId("test.example", "/agents/one"),
    owner=ANN,
    purpose="drafts replies",
    environment=Environment.DEV,
    templates=("support.refund",),
    registered_at=datetime(2026, 1, 2, tzinfo=UTC),
)
_ids = count()


def call(
    target: str, arguments: Mapping[str, Any] | None = None, *, action: str = "call_tool"
) -> Call:
    upstream, _, name = target.partition("/")
    arguments = arguments or {}
    return Call(
        id=f"call_{next(_ids)}",
        action=action,
        upstream=upstream,
        name=name,
        arguments=arguments,
        digest=f"{action} {target} {arguments!r}",
    )


def claim(token: str) -> Claim:
    return Claim(task_token=token)


def another(name: str) -> Agent:
    return replace(AGENT, name=name, spiffe_id=SpiffeId("test.example", f"/agents/{name}"))


def subject(workload: SpiffeId = AGENT.spiffe_id) -> Subject:
    return Subject(
        workload=workload,
        agent=AGENT,
        method="jwt-svid",
        issuer="spiffe://test.example",
        credential="00",
        expires_at=datetime(2027, 1, 1, tzinfo=UTC),
    )


@dataclass
class House:
    clock: ManualClock = field(default_factory=ManualClock)
    recorder: MemoryRecorder = field(default_factory=MemoryRecorder)
    store: MemoryTasks = field(default_factory=MemoryTasks)
    signer: MemorySigner = field(default_factory=MemorySigner)
    desk: TaskDesk = field(init=False)
    refund: bytes = REFUND
    agents: MemoryAgents = field(default_factory=lambda: MemoryAgents(AGENT))
    max_depth: int = 4
    max_below: int = 8

    agent = AGENT
    call = staticmethod(call)
    claim = staticmethod(claim)
    subject = staticmethod(subject)

    def __post_init__(self) -> None:
        self.desk = self.another_desk()

    async def admit(self, token: str | None, workload: SpiffeId = AGENT.spiffe_id) -> Task:
        return await self.desk.admit(Claim(task_token=token), subject(workload))

    def another_desk(self, signer: MemorySigner | None = None) -> TaskDesk:
        return TaskDesk(
            store=self.store,
            signer=signer or self.signer,
            recorder=self.recorder,
            clock=self.clock,
            templates={
                "support.refund": parse_template("templates/support.refund.toml", self.refund)
            },
            close_wait_seconds=0.05,
            max_open_per_agent=3,
            agents=self.agents,
            delegation=DelegationLimits(depth=self.max_depth, tasks=self.max_below),
        )

    async def open(self, **keys: Any) -> Opened:
        request = TaskRequest.parse({"template": "support.refund", **keys})
        return await self.desk.open(request, agent=AGENT, opened_by=ANN)

    def register(self, name: str) -> Agent:
        agent = another(name)
        self.agents.put(agent)
        return agent

    async def delegate(self, parent: Task, to: Agent, /, **keys: Any) -> Opened:
        request = TaskRequest.parse({"template": "support.refund", **keys})
        by = str(parent.mandate.workload)
        return await self.desk.delegate(request, parent=parent.id, agent=to, opened_by=by)


@pytest.fixture
def house() -> House:
    return House()
