"""A lease book on memory whose pages are only what a barrier made durable, and a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from remit.credentials.leases import Leases
from remit.credentials.port import Binding
from remit.credentials.sealing import KeySeal
from remit.model.call import CALL_TOOL, Call
from remit.model.decision import Decision, Effect
from remit.model.lease import Lease, LeaseScope
from remit.model.mandate import Capability, Mandate, Template
from remit.model.subject import Environment, SpiffeId
from remit.model.task import Task
from remit.testing.credentials import MemoryLeases, MemoryTarget
from remit.testing.evidence import MemoryRecorder
from remit.testing.identity import ManualClock

START = datetime(2026, 11, 25, 12, tzinfo=UTC)


class DurablePages(MemoryLeases):
    """Pages that hold what was put before the last barrier, as a database does."""

    def __init__(self) -> None:
        super().__init__()
        self._staged: list[Lease] = []

    def put(self, lease: Lease) -> None:
        self._staged.append(lease)

    def commit(self) -> None:
        for lease in self._staged:
            super().put(lease)
        self._staged.clear()


class CommittingRecorder(MemoryRecorder):
    """A recorder whose barrier commits the pages with it: both are one group."""

    def __init__(self, pages: DurablePages) -> None:
        super().__init__()
        self._pages = pages

    async def barrier(self) -> None:
        await super().barrier()
        self._pages.commit()


def task_of(number: int = 1, seconds: float = 1800, template_seconds: int = 1800) -> Task:
    template = Template(
        name="help",
        purpose="Help",
        capabilities=(Capability(target="desk/read"),),
        expires_seconds=template_seconds,
    )
    mandate = Mandate(
        id=f"task_{number:026d}",
        purpose="Help",
        prompt=None,
        template="help",
        template_digest="sha256:0",
        workload=SpiffeId("remit.test", "/agent/helper"),
        on_behalf_of="user:olivia@corp.example",
        opened_by="user:olivia@corp.example",
        capabilities=template.capabilities,
        environments=(Environment.DEV,),
        data_ceiling=template.data_ceiling,
        egress=(),
        budget=template.budget,
        issued_at=START,
        expires_at=START + timedelta(seconds=seconds),
    )
    return Task(
        mandate=mandate, template=template, signed_mandate="a.b.c", mandate_digest="sha256:0"
    )


@dataclass
class Book:
    """The book, what it stands on, and short ways to use it."""

    target: MemoryTarget = field(default_factory=MemoryTarget)
    pages: DurablePages = field(default_factory=DurablePages)
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    scope: LeaseScope = LeaseScope.CALL
    grant: Mapping[str, Any] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    quarantine_seconds: float = 30.0
    numbers: Any = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything that is not durable."""
        self.recorder = CommittingRecorder(self.pages)
        self.pages._staged.clear()
        binding = Binding(
            name="memory", broker=self.target, scope=self.scope, seconds=300, grant=self.grant
        )
        self.leases = Leases(
            bindings={"desk": binding},
            store=self.pages,
            recorder=self.recorder,
            clock=self.clock,
            seal=KeySeal(bytes(32)),
            installation="remit-00000000",
            revoke_seconds=0.05,
            quarantine_seconds=self.quarantine_seconds,
        )

    def call(self, **arguments: Any) -> Call:
        return Call(
            id=f"call_{next(self.numbers):026d}",
            action=CALL_TOOL,
            upstream="desk",
            name="read",
            arguments=arguments,
            digest="0" * 64,
        )

    def reserve(self, task: Task, call: Call | None = None, **more: Any) -> Lease:
        self.running.add(task.id)
        decision = Decision(
            id="dec_1",
            effect=Effect.PERMIT,
            reasons=(),
            bundle_digest="sha256:0",
            facts=b"{}",
            target="desk/read",
            action=CALL_TOOL,
        )
        lease = self.leases.reserve(task, call or self.call(), decision, **more)
        assert lease is not None
        return lease

    async def sweep(self) -> int:
        return await self.leases.sweep(self.running.__contains__)

    async def states(self) -> list[str]:
        return [lease.state.value for lease in self.pages._all()]
