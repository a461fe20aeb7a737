"""Mint and revoke through Remit against the target's own mint and revoke, turn about in one run.

Remit writes the lease down first, makes it durable, asks the target afterwards whether it is gone,
and leaves evidence; the target's own way does none of that. Also: leases a second with eight at
once, and the time from a task's end to the last use that the target accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))

import openbao  # noqa: E402 - the harness of the tests against real servers
import postgres  # noqa: E402
import postgres_crm  # noqa: E402
import psycopg  # noqa: E402
from evidence_house import House  # noqa: E402
from lease_book import task_of  # noqa: E402
from psycopg import sql  # noqa: E402

from remit.credentials.brokers.openbao import OpenBaoBroker  # noqa: E402
from remit.credentials.leases import Leases  # noqa: E402
from remit.credentials.port import Binding, Broker, Surroundings  # noqa: E402
from remit.credentials.sealing import KeySeal  # noqa: E402
from remit.model.call import CALL_TOOL, Call  # noqa: E402
from remit.model.decision import Decision, Effect  # noqa: E402
from remit.model.lease import Credential, Lease  # noqa: E402
from remit.storage.sqlite.leases import SqliteLeases  # noqa: E402

AT_ONCE = 8
READER = 'path "auth/token/lookup-self" { capabilities = ["read"] }'


class Desk:
    """A lease book on a real disk, over one broker."""

    def __init__(self, folder: Path, broker: Broker, grant: dict[str, Any]) -> None:
        self.house = House(folder)
        self.broker = broker
        self.grant = grant
        self.numbers = 0

    async def __aenter__(self) -> Self:
        self.ledger = await self.house.open()
        self.leases = Leases(
            bindings={"target": Binding(name="b", broker=self.broker, grant=self.grant)},
            store=SqliteLeases(self.house.journal),
            recorder=self.ledger,
            clock=lambda: datetime.now(UTC),
            seal=KeySeal(bytes(32)),
            installation=postgres_crm.INSTALLATION,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.close()
        await self.house.close(self.ledger)

    async def minted(self) -> tuple[Lease, Credential]:
        self.numbers += 1
        number = self.numbers
        call = Call(
            id=f"call_{number:026d}",
            action=CALL_TOOL,
            upstream="target",
            name="use",
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
        lease = self.leases.reserve(task_of(number, 10**9, 10**9), call, decision)
        assert lease is not None
        await self.ledger.barrier()
        credential = await self.leases.issue(lease)
        await self.ledger.barrier()
        return lease, credential

    async def round(self) -> None:
        lease, _ = await self.minted()
        await self.leases.settle(lease)
        await self.ledger.barrier()


async def turn_about(
    ours: Callable[[], Awaitable[None]], own: Callable[[], Awaitable[None]], rounds: int
) -> dict[str, float]:
    """Time both, one after the other, so that whatever else the machine does falls on both."""
    for _ in range(5):
        await ours()
        await own()
    times: dict[str, list[float]] = {"through_remit": [], "targets_own": []}
    for _ in range(rounds):
        for name, work in (("through_remit", ours), ("targets_own", own)):
            began = time.perf_counter()
            await work()
            times[name].append(time.perf_counter() - began)
    found = {f"{name}_p50_ms": statistics.median(t) * 1e3 for name, t in times.items()}
    return {**found, "ratio": found["through_remit_p50_ms"] / found["targets_own_p50_ms"]}


async def leases_a_second(desk: Desk, rounds: int) -> float:
    began = time.perf_counter()

    async def worker() -> None:
        for _ in range(rounds):
            await desk.round()

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return AT_ONCE * rounds / (time.perf_counter() - began)


async def last_use(desk: Desk, use: Callable[[Credential], Awaitable[bool]]) -> tuple[float, float]:
    """Return, in milliseconds from the kill: the last use the target took, and the confirmation."""
    lease, credential = await desk.minted()
    last = 0.0
    over = asyncio.Event()

    async def using() -> None:
        nonlocal last
        while not over.is_set():
            began = time.perf_counter()
            if await use(credential):
                last = began

    running = asyncio.create_task(using())
    await asyncio.sleep(0.2)
    killed = time.perf_counter()
    await desk.leases.settle_task(lease.task)
    confirmed = time.perf_counter()
    await asyncio.sleep(0.2)
    over.set()
    await running
    return max(0.0, last - killed) * 1e3, (confirmed - killed) * 1e3


async def with_postgres(folder: Path, rounds: int) -> dict[str, float]:
    with postgres.postgres_server(fsync=True) as server:
        postgres_crm.lay(server)
        grant = {"tables": [{"schema": "crm", "table": "customer"}]}
        broker = postgres_crm.broker(server, folder)
        admin = await psycopg.AsyncConnection.connect(
            server.dsn(postgres_crm.ADMIN, postgres_crm.ADMIN_PASSWORD, "crm"), autocommit=True
        )

        async def own() -> None:
            """What an operator's script would do: make a role with its grants, and drop it."""
            role = sql.Identifier(f"own-{secrets.token_hex(8)}")
            await admin.execute(
                sql.SQL(
                    "BEGIN; CREATE ROLE {} LOGIN PASSWORD 'x' VALID UNTIL '2030-01-01'; "
                    "GRANT CONNECT ON DATABASE crm TO {}; GRANT USAGE ON SCHEMA crm TO {}; "
                    "GRANT SELECT ON crm.customer TO {}; COMMIT"
                ).format(role, role, role, role)
            )
            await admin.execute(
                sql.SQL(
                    "BEGIN; REVOKE CONNECT ON DATABASE crm FROM {}; "
                    "REVOKE USAGE ON SCHEMA crm FROM {}; REVOKE SELECT ON crm.customer FROM {}; "
                    "DROP ROLE {}; COMMIT"
                ).format(role, role, role, role)
            )

        async def use(credential: Credential) -> bool:
            try:
                await postgres_crm.run(credential.values, "SELECT 1")
            except psycopg.OperationalError:
                return False
            return True

        async with Desk(folder / "state", broker, grant) as desk, admin:
            return await measured(desk, own, use, rounds)


async def with_openbao(folder: Path, rounds: int) -> dict[str, float]:
    with openbao.openbao_server() as server:
        server.root.sys.create_or_update_policy("reader", READER)
        server.role("reader")
        file = server.remits_token(folder)
        client = server.client(file.read_text().strip())
        surroundings = Surroundings(
            http=None,  # type: ignore[arg-type]
            clock=lambda: datetime.now(UTC),
            signer=None,  # type: ignore[arg-type]
            installation=postgres_crm.INSTALLATION,
            state=folder / "bao",
            path=Path,
        )
        options = {"url": server.url, "token_role": "remit", "token_file": str(file)}
        broker = OpenBaoBroker("bao", options, surroundings)

        def by_hand() -> None:
            made = client.auth.token.create(role_name="remit", policies=["reader"], ttl="300s")
            client.auth.token.revoke_accessor(made["auth"]["accessor"])

        async def own() -> None:
            await asyncio.to_thread(by_hand)

        async def use(credential: Credential) -> bool:
            holder = server.client(credential.values["token"])
            try:
                await asyncio.to_thread(holder.auth.token.lookup_self)
            except Exception:  # noqa: BLE001 - whatever it says, it was not taken
                return False
            return True

        async with Desk(folder / "state", broker, {"policies": ["reader"]}) as desk:
            return await measured(desk, own, use, rounds)


async def measured(
    desk: Desk,
    own: Callable[[], Awaitable[None]],
    use: Callable[[Credential], Awaitable[bool]],
    rounds: int,
) -> dict[str, float]:
    rows = await turn_about(desk.round, own, rounds)
    rows["leases_a_second"] = await leases_a_second(desk, max(5, rounds // AT_ONCE))
    uses = [await last_use(desk, use) for _ in range(5)]
    rows["kill_to_last_use_ms"] = max(last for last, _ in uses)
    rows["kill_to_confirmed_ms"] = max(confirmed for _, confirmed in uses)
    return rows


@contextlib.contextmanager
def absent(name: str) -> Iterator[None]:
    """Say what is not here, and go on: a machine without the server has no ratio to it."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "Skipped":
            raise
        print(f"{name}: not measured: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for name, work in (("postgres", with_postgres), ("openbao", with_openbao)):
        with tempfile.TemporaryDirectory() as folder, absent(name):
            rows = asyncio.run(work(Path(folder), given.rounds))
            if given.json:
                print(json.dumps({"bench": "leases", "target": name, **rows}))
                continue
            for key, value in rows.items():
                print(f"{name:<10} {key.replace('_', ' '):<26} {value:>10,.2f}")


if __name__ == "__main__":
    main()
