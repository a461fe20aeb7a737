"""Durable records a second: through the ledger, against the driver's own batched insert.

Both write the same bytes into the same tables under the same pragmas, in one run. The ledger does
so for 64 callers, each of which waits for its record to be durable before it leaves the next; the
driver does so with ``executemany``, 64 rows a transaction. So the ratio is what identity of the
record, its encoding, its sealing, the queue and 64 waits cost on top of SQLite.

Usage: python bench/records.py [--records 20000] [--waiting 64] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from remit.evidence.ledger import Ledger
from remit.model.record import Context, Payload, Step
from remit.storage.sqlite.engine import driver_of, open_writer, prepare_files
from remit.storage.sqlite.evidence import SqliteEvidence
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.migrations import migrate

FACTS = b'{"action":"call_tool","arguments":{"id":"88"},"labels":[]}' * 8
BODY = {
    "decision": "dec_0123456789abcdefghjkmnpqrs",
    "effect": "permit",
    "action": "call_tool",
    "target": "crm/get_customer",
    "policies": [{"id": "mandate.allows", "reason": "the mandate allows it", "controls": ["C9"]}],
    "errors": [],
    "bundle": "sha256:" + "0" * 64,
    "obligations": [],
}


async def through_the_ledger(folder: Path, records: int, waiting: int) -> dict[str, float]:
    journal = Journal.open(folder / "remit.db")
    ledger = Ledger(SqliteEvidence(journal), folder=folder, trust_domain="bench.example")
    await ledger.start()
    step = Step(kind="call.decided", body=BODY, payloads=(Payload("facts", FACTS),))
    waits: list[float] = []
    staging = 0.0

    async def caller(name: int) -> None:
        nonlocal staging
        for turn in range(records // waiting):
            context = Context(task=f"task_{name}", call=f"call_{name}_{turn}")
            began = time.perf_counter()
            ledger.stage(step, context)
            staged = time.perf_counter()
            staging += staged - began
            await ledger.barrier()
            waits.append(time.perf_counter() - staged)

    began = time.perf_counter()
    await asyncio.gather(*(caller(n) for n in range(waiting)))
    seconds = time.perf_counter() - began
    await ledger.close()
    await journal.close()
    waits.sort()
    return {
        "records_per_second": len(waits) / seconds,
        "stage_microseconds": staging / len(waits) * 1e6,
        "barrier_p50_milliseconds": statistics.median(waits) * 1e3,
        "barrier_p99_milliseconds": waits[int(len(waits) * 0.99)] * 1e3,
    }


def with_the_driver(source: Path, folder: Path, batch: int) -> float:
    """Insert what the ledger wrote, again, into a fresh file; return records a second."""
    tables = {}
    engine = open_writer(source)
    with engine.connect() as connection:
        driver = driver_of(connection)
        for table, columns in (("record", 7), ("payload", 4)):
            order = "idx" if table == "record" else "record"
            rows = driver.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()
            tables[table] = (f"INSERT INTO {table} VALUES ({','.join('?' * columns)})", rows)
    engine.dispose()
    path = folder / "remit.db"
    prepare_files(path)
    migrate(path)
    engine = open_writer(path)
    with engine.connect() as connection:
        driver = driver_of(connection)
        count = len(tables["record"][1])
        began = time.perf_counter()
        for place in range(0, count, batch):
            driver.execute("BEGIN IMMEDIATE")
            for sql, rows in tables.values():
                driver.executemany(sql, rows[place : place + batch])
            driver.execute("COMMIT")
        seconds = time.perf_counter() - began
    engine.dispose()
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--waiting", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = Path(folder) / "ledger", Path(folder) / "driver"
        rows = asyncio.run(through_the_ledger(ours, given.records, given.waiting))
        rows["driver_records_per_second"] = with_the_driver(ours / "remit.db", bare, given.waiting)
    rows["ratio"] = rows["records_per_second"] / rows["driver_records_per_second"]
    if given.json:
        print(json.dumps({"bench": "records", "waiting": given.waiting, **rows}))
        return
    for name, value in rows.items():
        print(f"{name.replace('_', ' '):<28} {value:>12,.2f}")


if __name__ == "__main__":
    main()
