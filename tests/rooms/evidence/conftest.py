"""A ledger over a real journal, and over one in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from remit.evidence.ledger import Ledger
from remit.model.record import Context, Payload, Step
from remit.storage.sqlite.evidence import SqliteEvidence
from remit.storage.sqlite.journal import Journal


@dataclass
class House:
    """One state folder that a ledger can be opened on, again and again."""

    folder: Path
    journal: Journal = field(init=False)

    async def open(self) -> Ledger:
        self.journal = Journal.open(self.folder / "remit.db")
        ledger = Ledger(
            SqliteEvidence(self.journal), folder=self.folder, trust_domain="corp.example"
        )
        try:
            await ledger.start()
        except BaseException:
            await self.journal.close()
            raise
        return ledger

    async def close(self, ledger: Ledger) -> None:
        await ledger.close()
        await self.journal.close()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "state")


@pytest.fixture
def leave() -> Callable[..., str]:
    """Stage one step of one kind, with any body and payloads given as keywords."""

    def leave(
        ledger: Ledger,
        kind: str = "call.decided",
        *,
        task: str | None = "task_1",
        call: str | None = None,
        payloads: dict[str, bytes] | None = None,
        parents: tuple[str, ...] = (),
        **body: object,
    ) -> str:
        kept = tuple(Payload(name, data) for name, data in (payloads or {}).items())
        return ledger.stage(
            Step(kind=kind, body=body, payloads=kept),
            Context(task=task, call=call, parents=parents),
        )

    return leave
