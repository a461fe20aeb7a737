"""One state folder with a ledger on it, and a short way to leave a step there."""

from dataclasses import dataclass, field
from pathlib import Path

from remit.evidence.ledger import Ledger
from remit.model.record import Context, Json, Payload, Step
from remit.storage.sqlite.evidence import SqliteEvidence
from remit.storage.sqlite.journal import Journal


@dataclass
class House:
    """A state folder that a ledger can be opened on, again and again."""

    folder: Path
    journal: Journal = field(init=False)

    async def open(self) -> Ledger:
        """Open the journal and start a ledger on it."""
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
        """End both, in order."""
        await ledger.close()
        await self.journal.close()


def leave(
    ledger: Ledger,
    kind: str = "call.decided",
    *,
    task: str | None = "task_1",
    call: str | None = None,
    payloads: dict[str, bytes] | None = None,
    parents: tuple[str, ...] = (),
    **body: Json,
) -> str:
    """Stage one step of one kind, with any body, and return the record's id."""
    kept = tuple(Payload(name, data) for name, data in (payloads or {}).items())
    return ledger.stage(
        Step(kind=kind, body=body, payloads=kept),
        Context(task=task, call=call, parents=parents),
    )
