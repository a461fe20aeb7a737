"""Mint and revoke through Remit against the target's own mint and revoke, turn about in one run.

Two peers, and a ratio to each. `targets_own` makes a credential and takes it back, and no more.
`careful_own` does by hand what a careful operator's script does for the same end: a role with
exactly its grants and limits, closed before its sessions are ended, dropped, and asked about.
Neither writes anything down first, nor leaves evidence. `book_alone` is what that costs: a lease
through Remit of a target that is no target at all. `postgres for sql` is what an upstream of kind
`sql` gets: Remit itself logs in, and the hash of the password has one round instead of the 4,096
that a server makes of the peers'. Also: leases a second with eight at once, and the time from a
task's end to the last use that the target accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))

import hvac  # noqa: E402 - after the path
import openbao  # noqa: E402 - the harness of the tests against real servers
import postgres  # noqa: E402
import postgres_crm  # noqa: E402
import psycopg  # noqa: E402
import uvloop  # noqa: E402
from evidence_house import House  # noqa: E402
from lease_book import task_of  # noqa: E402
from psycopg import sql  # noqa: E402

from remit.credentials.brokers.openbao.broker import OpenBaoBroker  # noqa: E402
from remit.credentials.leases import Leases  # noqa: E402
from remit.credentials.port import Binding, Broker, Surroundings  # noqa: E402
from remit.credentials.sealing import KeySeal  # noqa: E402
from remit.model.call import CALL_TOOL, Call  # noqa: E402
from remit.model.decision import Decision, Effect  # noqa: E402
from remit.model.lease import Credential, Lease  # noqa: E402
from remit.storage.sqlite.leases import SqliteLeases  # noqa: E402
from remit.testing.credentials import MemoryTarget  # noqa: E402

AT_ONCE = 8
WARM_ROUNDS = 170
"""Until Remit's write-ahead log has come round once, and is written over instead of lengthened."""

OURS = "through_remit"
Work = Callable[[], Awaitable[None]]
READER = 'path "auth/token/lookup-self" { capabilities = ["read"] }'

POSTGRES_OWN = """
BEGIN; CREATE ROLE {role} LOGIN PASSWORD 'x' VALID UNTIL '2030-01-01'; \
GRANT CONNECT ON DATABASE crm TO {role}; GRANT USAGE ON SCHEMA crm TO {role}; \
GRANT SELECT ON crm.customer TO {role}; COMMIT
BEGIN; REVOKE CONNECT ON DATABASE crm FROM {role}; REVOKE USAGE ON SCHEMA crm FROM {role}; \
REVOKE SELECT ON crm.customer FROM {role}; DROP ROLE {role}; COMMIT
"""
POSTGRES_CAREFUL = """
BEGIN; CREATE ROLE {role} LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION \
NOBYPASSRLS CONNECTION LIMIT 4 PASSWORD 'x' VALID UNTIL '2030-01-01' ROLE CURRENT_USER; \
ALTER ROLE {role} SET application_name = 'x'; ALTER ROLE {role} SET statement_timeout = '60s'; \
ALTER ROLE {role} SET idle_in_transaction_session_timeout = '60s'; \
ALTER ROLE {role} SET default_transaction_read_only = 'on'; \
GRANT CONNECT ON DATABASE crm TO {role}; GRANT USAGE ON SCHEMA crm TO {role}; \
GRANT SELECT ON crm.customer TO {role}; COMMIT
ALTER ROLE {role} NOLOGIN
SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE usename = {name}
BEGIN; REVOKE SELECT ON crm.customer FROM {role}; DROP OWNED BY {role}; DROP ROLE {role}; COMMIT
SELECT count(*) FROM pg_roles WHERE rolname = {name}
"""
"""One round trip a line, as a script has them."""


class Desk:
    """A lease book on a real disk, over one broker."""

    def __init__(
        self, folder: Path, broker: Broker, grant: dict[str, Any], *, ours: bool = False
    ) -> None:
        self.house = House(folder)
        self.broker = broker
        self.grant = grant
        self.ours = ours
        self.numbers = 0

    async def __aenter__(self) -> Self:
        self.ledger = await self.house.open()
        self.leases = Leases(
            bindings={
                "target": Binding(name="b", broker=self.broker, grant=self.grant, ours=self.ours)
            },
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
        credential = await self.leases.issue(lease, durable=self.ledger.barrier)
        await self.ledger.barrier()  # before the call acts
        return lease, credential

    async def round(self) -> None:
        lease, _ = await self.minted()
        await self.leases.settle(lease)


async def turn_about(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Time each in its turn, so that whatever else the machine does falls on all."""
    for _ in range(WARM_ROUNDS):
        for work in works.values():
            await work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            await work()
            times[name].append(time.perf_counter() - began)
    found = {name: statistics.median(taken) * 1e3 for name, taken in times.items()}
    ratios = {
        f"ratio_to_{name}": found[OURS] / found[name] for name in ("targets_own", "careful_own")
    }
    return {f"{name}_p50_ms": taken for name, taken in found.items()} | ratios


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


async def with_postgres(folder: Path, rounds: int, *, ours: bool = False) -> dict[str, float]:
    with postgres.postgres_server(fsync=True) as server:
        postgres_crm.lay(server)
        grant = {"tables": [{"schema": "crm", "table": "customer"}]}
        broker = postgres_crm.broker(server, folder)
        admin = await psycopg.AsyncConnection.connect(
            server.dsn(postgres_crm.ADMIN, postgres_crm.ADMIN_PASSWORD, "crm"), autocommit=True
        )

        async def said(statements: str) -> None:
            role = f"own-{secrets.token_hex(8)}"
            for each in statements.strip().splitlines():
                # The password is the server's to hash, as it is where somebody types it.
                await admin.execute(
                    sql.SQL(each).format(role=sql.Identifier(role), name=sql.Literal(role))  # type: ignore[arg-type]
                )

        async def use(credential: Credential) -> bool:
            try:
                await postgres_crm.run(credential.values, "SELECT 1")
            except psycopg.OperationalError:
                return False
            return True

        peers = {
            "targets_own": lambda: said(POSTGRES_OWN),
            "careful_own": lambda: said(POSTGRES_CAREFUL),
        }
        async with Desk(folder / "state", broker, grant, ours=ours) as desk, admin:
            return await measured(desk, peers, use, rounds)


async def with_openbao(folder: Path, rounds: int, *, durable: bool = True) -> dict[str, float]:
    with openbao.openbao_server(durable=durable) as server:
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

        def own() -> None:
            made = client.auth.token.create(role_name="remit", policies=["reader"], ttl="300s")
            client.auth.token.revoke_accessor(made["auth"]["accessor"])

        def careful() -> None:
            made = client.auth.token.create(
                role_name="remit",
                policies=["reader"],
                meta={"for": secrets.token_hex(8)},
                no_default_policy=True,
                renewable=False,
                ttl="300s",
                explicit_max_ttl="300s",
            )
            accessor = made["auth"]["accessor"]
            client.auth.token.revoke_accessor(accessor)
            with contextlib.suppress(hvac.exceptions.InvalidRequest, hvac.exceptions.Forbidden):
                client.auth.token.lookup_accessor(accessor)
                raise AssertionError("it is revoked, and still there")

        async def use(credential: Credential) -> bool:
            holder = server.client(credential.values["token"])
            try:
                await asyncio.to_thread(holder.auth.token.lookup_self)
            except Exception:  # noqa: BLE001 - whatever it says, it was not taken
                return False
            return True

        peers = {
            "targets_own": lambda: asyncio.to_thread(own),
            "careful_own": lambda: asyncio.to_thread(careful),
        }
        async with Desk(folder / "state", broker, {"policies": ["reader"]}) as desk:
            return await measured(desk, peers, use, rounds)


async def measured(
    desk: Desk,
    peers: Mapping[str, Work],
    use: Callable[[Credential], Awaitable[bool]],
    rounds: int,
) -> dict[str, float]:
    async with Desk(desk.house.folder / "alone", MemoryTarget(), {}) as alone:
        works = {OURS: desk.round, **peers, "book_alone": alone.round}
        rows = await turn_about(works, rounds)
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
    in_memory = functools.partial(with_openbao, durable=False)
    for name, work in (
        ("postgres", with_postgres),
        ("postgres for sql", functools.partial(with_postgres, ours=True)),
        ("openbao", with_openbao),
        ("openbao in memory", in_memory),
    ):
        with tempfile.TemporaryDirectory() as folder, absent(name):
            rows = uvloop.run(work(Path(folder), given.rounds))  # as Remit runs
            if given.json:
                print(json.dumps({"bench": "leases", "target": name, **rows}))
                continue
            for key, value in rows.items():
                print(f"{name:<18} {key.replace('_', ' '):<26} {value:>10,.2f}")


if __name__ == "__main__":
    main()
