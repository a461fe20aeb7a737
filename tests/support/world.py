"""A whole authority in process: every room is the real one, on a throw-away state folder."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remit.app.compose import House, compose
from remit.app.config import load
from remit.credentials.leases import Leases
from remit.credentials.port import Binding
from remit.credentials.sealing import KeySeal
from remit.model.call import CALL_TOOL, Call
from remit.model.decision import Decision
from remit.model.lease import Credential, LeaseScope
from remit.model.outcome import Ending, Outcome
from remit.model.subject import Agent, Claim, Environment
from remit.policy.catalogue import Definition
from remit.proof.encoding import canonical, digest
from remit.spine import Authority, Understand, perform
from remit.storage.sqlite.leases import SqliteLeases
from remit.tasks.request import Opened, TaskRequest
from remit.testing.credentials import MemoryTarget

CONFIG = """\
[authority]
state = "s"
trust_domain = "story.example"
[upstream.desk]
command = ["true"]
[policy]
templates = "templates"
[limits]
identify_seconds = 1
decide_seconds = 0.5
settle_seconds = 5
"""
TEMPLATE = """\
purpose = "Help"
budget = { calls = 3 }
[[capability]]
tool = "desk/read"
args = { id = { const = "88" } }
[[capability]]
tool = "desk/pay"
args = { amount = { type = "number", maximum = 100 } }
approval = "manager"
"""


@dataclass
class World:
    """The authority, its one agent, and the acts that were really made."""

    house: House
    agent: Agent
    opened: Opened
    target: MemoryTarget
    acted: list[Call] = field(default_factory=list)
    credentials: list[Credential | None] = field(default_factory=list)
    numbers: Any = field(default_factory=itertools.count)

    @property
    def authority(self) -> Authority:
        return self.house.authority

    def svid(self, agent: Agent | None = None, audience: str = "remit") -> str:
        who = agent or self.agent
        return self.house.trust_domain.issue_jwt_svid(who.spiffe_id, [audience])

    def claim(self, **changes: Any) -> Claim:
        given: dict[str, Any] = {"bearer": self.svid(), "task_token": self.opened.token}
        return Claim(**{**given, **changes})

    def call(self, name: str = "read", **arguments: Any) -> Call:
        asked = arguments or {"id": "88"}
        body = {"action": CALL_TOOL, "target": f"desk/{name}", "arguments": asked}
        return Call(
            id=f"call_{next(self.numbers):026d}",
            action=CALL_TOOL,
            upstream="desk",
            name=name,
            arguments=asked,
            digest=digest(canonical(body)),
        )

    async def act(self, call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        self.acted.append(call)
        self.credentials.append(credential)
        return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=b"{}")

    async def perform(
        self,
        call: Call | None = None,
        *,
        claim: Claim | None = None,
        act: Callable[..., Awaitable[Outcome]] | None = None,
        understand: Understand | None = None,
    ) -> Outcome:
        return await perform(
            claim or self.claim(),
            call or self.call(),
            act or self.act,
            self.authority,
            understand=understand,
        )

    async def open(self, agent: Agent | None = None) -> Opened:
        return await self.authority.tasks.open(
            TaskRequest(template="help"), agent=agent or self.agent, opened_by="user:ada"
        )

    async def register(self, name: str) -> Agent:
        return await self.authority.registry.register(
            name,
            by="user:ada",
            owner="user:ada",
            purpose="Help",
            environment=Environment.DEV,
            autonomy=2,
            templates=("help",),
        )

    async def kinds(self, call: Call) -> list[str]:
        """Return the kinds of the records of one call, in the order of the log."""
        return [record.kind for _, record in await self.authority.evidence.find(call.id)]

    def lease_calls(
        self, *, scope: LeaseScope = LeaseScope.CALL, revoke_seconds: float = 10.0
    ) -> None:
        """From now on a call of ``desk`` needs a credential of ``target``."""
        object.__setattr__(
            self.house.authority,
            "leases",
            Leases(
                bindings={"desk": Binding(name="memory", broker=self.target, scope=scope)},
                store=SqliteLeases(self.house.journal),
                recorder=self.authority.evidence,
                clock=self.authority.clock,
                seal=KeySeal(bytes(32)),
                revoke_seconds=revoke_seconds,
                quarantine_seconds=0,
            ),
        )


@contextlib.asynccontextmanager
async def standing(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "help.toml").write_text(TEMPLATE)
    (tmp_path / "remit.toml").write_text(CONFIG)
    house = await compose(load(tmp_path / "remit.toml"))
    try:
        house.authority.catalogue.observe(
            "desk",
            "tool",
            [
                Definition(name=name, json_bytes=b'{"name":"%s"}' % name.encode())
                for name in ("read", "pay", "delete")
            ],
        )
        made = World(house, None, None, MemoryTarget())  # type: ignore[arg-type]
        made.agent = await made.register("helper")
        made.opened = await made.open()
        yield made
    finally:
        await house.close()
