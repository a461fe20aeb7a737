"""Leases of a real PostgreSQL on a state folder: run under load to be killed, or swept afterwards.

Started as a program it waits for lines of a number each, and forks a process for each line, which
mints and settles until it is killed: a fork costs nothing, an interpreter with everything loaded
costs a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evidence_house import House
from lease_book import task_of
from postgres_crm import INSTALLATION, surroundings

from remit.credentials.brokers.postgres import PostgresBroker
from remit.credentials.leases import Leases
from remit.credentials.port import Binding
from remit.credentials.sealing import KeySeal
from remit.evidence.ledger import Ledger
from remit.model.call import CALL_TOOL, Call
from remit.model.decision import Decision, Effect
from remit.storage.sqlite.leases import SqliteLeases

WORKERS = 4
GRANT = {"tables": [{"schema": "crm", "table": "customer"}]}


@dataclass
class Desk:
    """An open book over a real ledger, a real disk and a real target."""

    house: House
    ledger: Ledger
    leases: Leases
    broker: PostgresBroker

    async def close(self) -> None:
        await self.broker.close()
        await self.house.close(self.ledger)


async def open_desk(folder: Path, options: dict[str, Any], quarantine_seconds: float) -> Desk:
    """Open the state folder, taking up what the last run left."""
    house = House(folder / "state")
    ledger = await house.open()
    broker = PostgresBroker("crm-db", options, surroundings(folder))
    leases = Leases(
        bindings={"crm": Binding(name="crm-db", broker=broker, grant=GRANT)},
        store=SqliteLeases(house.journal),
        recorder=ledger,
        clock=lambda: datetime.now(UTC),
        seal=KeySeal(bytes(32)),
        installation=INSTALLATION,
        quarantine_seconds=quarantine_seconds,
    )
    await leases.load()
    return Desk(house, ledger, leases, broker)


async def one_call(desk: Desk, number: int) -> None:
    """Reserve, mint, and settle."""
    task = task_of(number, seconds=10**9)
    call = Call(
        id=f"call_{number:026d}",
        action=CALL_TOOL,
        upstream="crm",
        name="query",
        arguments={},
        digest="0" * 64,
    )
    decision = Decision(
        id=f"dec_{number:026d}",
        effect=Effect.PERMIT,
        reasons=(),
        bundle_digest="sha256:0",
        facts=b"{}",
        target=call.target,
        action=CALL_TOOL,
    )
    lease = desk.leases.reserve(task, call, decision)
    assert lease is not None
    await desk.ledger.barrier()
    await desk.leases.issue(lease)
    await desk.ledger.barrier()
    await desk.leases.settle(lease)


async def until_killed(folder: Path, options: dict[str, Any], first: int) -> None:
    """Mint and settle, several at once, without end; says once that it began."""
    desk = await open_desk(folder, options, 30.0)
    await one_call(desk, first)
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()

    async def worker(place: int) -> None:
        for turn in range(1, 10_000):
            await one_call(desk, first + turn * WORKERS + place)

    await asyncio.gather(*(worker(place) for place in range(WORKERS)))


def main() -> None:
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(until_killed(folder, options, int(line)))
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        sys.stdout.write("dead\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
