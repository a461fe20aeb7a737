"""OpenBao's database engine at a real PostgreSQL: users that live as long as a lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from openbao import Server, openbao_server
from postgres import Server as Postgres
from postgres import postgres_server
from world import standing

from remit.credentials.brokers.openbao.broker import OpenBaoBroker
from remit.credentials.leases import Leases
from remit.credentials.port import Binding, Surroundings
from remit.credentials.sealing import KeySeal
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.errors import BrokerError
from remit.model.lease import Credential, LeaseState
from remit.model.outcome import Ending, Outcome
from remit.storage.sqlite.leases import SqliteLeases
from remit.testing.broker_suite import BrokerSuite, Lab

pytestmark = pytest.mark.real

INSTALLATION = "remit-0a1b2c3d"
GRANT = {"policies": ["crm"], "secret": "database/creds/crm"}
CREATION = """\
CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
"""
REVOCATION = 'DROP ROLE IF EXISTS "{{name}}";'


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as running:
        yield running


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[Server]:
    with openbao_server() as running:
        root = running.root
        root.sys.create_or_update_policy(
            "crm", 'path "database/creds/crm" { capabilities = ["read"] }'
        )
        running.role("crm")
        root.sys.enable_secrets_engine("database")
        root.secrets.database.configure(
            name="crm",
            plugin_name="postgresql-database-plugin",
            allowed_roles=["crm"],
            connection_url="postgresql://{{username}}:{{password}}"
            f"@{postgres.host}:{postgres.port}/postgres?sslmode=disable&connect_timeout=2",
            username=postgres.admin,
            password=postgres.password,
        )
        root.secrets.database.create_role(
            name="crm",
            db_name="crm",
            creation_statements=[CREATION],
            revocation_statements=[REVOCATION],
            default_ttl="1h",
            max_ttl="24h",
        )
        yield running


def broker(server: Server, folder: Path) -> OpenBaoBroker:
    options = {
        "url": server.url,
        "token_file": str(server.remits_token(folder)),
        "token_role": "remit",
        "timeout_seconds": 5.0,
    }
    surroundings = Surroundings(
        http=None,  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC),
        signer=None,  # type: ignore[arg-type]
        installation=INSTALLATION,
        state=folder,
        path=Path,
    )
    return OpenBaoBroker("bao", options, surroundings)


class Database:
    """The suite's target: accepted is who PostgreSQL lets in."""

    installation = INSTALLATION
    names_are_ours = True
    grant: Mapping[str, Any] = GRANT

    def __init__(self, server: Server, postgres: Postgres, folder: Path) -> None:
        self.server, self.postgres = server, postgres
        self.broker = broker(server, folder)

    async def accepts(self, credential: Credential) -> bool:
        return await asyncio.to_thread(self._lets_in, credential.values)

    def _lets_in(self, values: Mapping[str, str]) -> bool:
        try:
            psycopg.connect(self.postgres.dsn(values["username"], values["password"])).close()
        except psycopg.OperationalError:
            return False
        return True

    async def down(self) -> None:
        self.server.stop()

    async def up(self) -> None:
        self.server.go_on()

    async def expire(self, credential: Credential) -> None:
        raise AssertionError("it takes back at once")

    def users(self) -> set[str]:
        with psycopg.connect(self.postgres.dsn()) as connection:
            rows = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'")
            return {row[0] for row in rows}


@pytest.fixture
async def database(server: Server, postgres: Postgres, tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(server, postgres, tmp_path)
    yield made
    await made.broker.close()


class TestDatabase(BrokerSuite):
    @pytest.fixture
    def target(self, database: Database) -> Database:
        return database


async def test_a_database_user_that_is_not_dropped_is_never_called_gone(database: Database):
    """The token dies, but what it read lives while its database is down: nothing is confirmed."""
    lease, credential = await Lab(database).issue()
    database.postgres.stop()
    try:
        with pytest.raises(BrokerError):
            await database.broker.revoke(lease, None)
        assert lease.handle in (await database.broker.census([lease])).alive
    finally:
        database.postgres.start()
    assert await database.accepts(credential)
    assert (await database.broker.revoke(lease, None)).confirmed
    assert not await database.accepts(credential)


async def test_a_token_that_is_revoked_takes_its_database_user_along(database: Database):
    """Found by listing alone: the lease's name is unknown, and its user goes all the same."""
    order = Lab(database).order()
    credential = await database.broker.issue(order)
    database.broker._notes.forget(order.lease.handle)
    await database.broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
    async with asyncio.timeout(20):
        while await database.accepts(credential):  # noqa: ASYNC110 - openbao does it in its time
            await asyncio.sleep(0.05)
    assert credential.values["username"] not in database.users()


async def test_a_governed_call_uses_a_database_user_that_is_gone_once_it_is_answered(
    server: Server, postgres: Postgres, tmp_path: Path
):
    used: list[Credential] = []
    target = Database(server, postgres, tmp_path)

    async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        assert credential is not None
        used.append(credential)
        values = credential.values
        dsn = postgres.dsn(values["username"], values["password"])
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            row = await (await connection.execute("SELECT current_user")).fetchone()
        assert row == (values["username"],)
        return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=b"{}")

    async with standing(tmp_path) as world:
        leases = Leases(
            bindings={"desk": Binding(name="bao", broker=target.broker, grant=GRANT)},
            store=SqliteLeases(world.house.journal),
            recorder=world.authority.evidence,
            clock=world.authority.clock,
            seal=KeySeal(bytes(32)),
            installation=INSTALLATION,
        )
        object.__setattr__(world.authority, "leases", leases)
        call = world.call()
        outcome = await world.perform(call, act=act)
        assert outcome.ending is Ending.SUCCEEDED
        assert not await target.accepts(used[0])
        assert leases.open_leases() == ()
        records = [record for _, record in await world.authority.evidence.find(call.id)]
        settled = next(each for each in records if each.kind == "lease.settled")
        assert settled.body["confirmed"] is True
        said = " ".join(str(record) for record in records)
        assert not any(secret in said for secret in used[0].secrets)
        assert settled.body["handle"] not in (await target.broker.census([])).alive
    await target.broker.close()
