"""The broker `postgres` against real servers: one before roles changed in version 16, one after."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Server, postgres_server
from postgres_crm import ADMIN, ADMIN_PASSWORD, INSTALLATION, Seat, broker, lay, run

from remit.credentials.brokers.postgres.broker import PostgresBroker
from remit.credentials.brokers.postgres.disowning import drop, taking
from remit.model.errors import BrokerError, EvidenceError, NotMintedError
from remit.model.lease import Credential
from remit.testing.broker_suite import BrokerSuite, Lab

pytestmark = pytest.mark.real

READ = {"tables": [{"schema": "crm", "table": "customer"}]}


@pytest.fixture(scope="module", params=[None, 18], ids=["oldest", "18"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with postgres_server(request.param) as running:
        lay(running)
        yield running


class Crm:
    """The suite's view of it."""

    grant: Mapping[str, Any] = READ
    installation = INSTALLATION
    names_are_ours = True

    def __init__(self, server: Server, made: PostgresBroker) -> None:
        self.server = server
        self.broker = made
        self.seat = Seat(server)

    async def accepts(self, credential: Credential) -> bool:
        try:
            return len(await run(credential.values, "SELECT * FROM crm.customer")) == 2
        except psycopg.OperationalError:
            return False

    async def down(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def up(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def expire(self, credential: Credential) -> None:
        raise AssertionError("it takes back at once")


@pytest.fixture
async def target(server: Server, tmp_path: Path) -> AsyncIterator[Crm]:
    made = broker(server, tmp_path)
    try:
        yield Crm(server, made)
    finally:
        await made.close()


async def until(target: Crm, query: str, *parameters: Any) -> None:
    """Wait until the server has a row for a query: only it knows."""
    while not target.seat.ask(query, *parameters):  # noqa: ASYNC110 - asks another process
        await asyncio.sleep(0.02)


def lab(target: Crm, **grant: Any) -> Lab:
    target.grant = grant or READ
    return Lab(target)


async def refused(credential: Credential, statement: str, database: str | None = None) -> str:
    """Return the SQLSTATE with which the server refuses a statement."""
    with pytest.raises(psycopg.Error) as caught:
        await run(credential.values, statement, database)
    return caught.value.sqlstate or "connection"


class TestPostgres(BrokerSuite):
    """The suite of every broker."""

    @pytest.fixture
    def target(self, target: Crm) -> Crm:
        return target


async def test_it_may_do_what_was_granted_and_nothing_else(target: Crm):
    made = lab(target, tables=[{"schema": "crm", "table": "customer", "columns": ["id", "name"]}])
    lease, held = await made.issue()
    assert await run(held.values, "SELECT id, name FROM crm.customer ORDER BY id") == [
        (1, "Ada"),
        (2, "Grace"),
    ]
    for statement in (
        "SELECT card FROM crm.customer",
        "SELECT * FROM crm.customer",
        "SELECT * FROM crm.invoice",
        "UPDATE crm.customer SET name = 'x'",
        "CREATE ROLE more",
        "CREATE DATABASE more",
        "CREATE TABLE crm.more (id int)",
        f"SET ROLE {ADMIN}",
        "SET SESSION AUTHORIZATION postgres",
        "COPY crm.customer TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
        "CREATE TEMPORARY TABLE mine (id int)",
    ):
        state = await refused(held, statement)
        assert state in {"42501", "25006"}, (statement, state)
    assert await refused(held, "UPDATE crm.customer SET name = 'x'") == "25006"
    await made.revoke(lease, held)


async def test_read_only_holds_by_privilege_even_where_the_session_says_otherwise(target: Crm):
    _, held = await lab(target).issue()
    state = await refused(held, "BEGIN READ WRITE; UPDATE crm.customer SET name = 'x'")
    assert state == "42501"


async def test_a_writer_writes_its_columns_and_draws_numbers(target: Crm):
    made = lab(
        target,
        read_only=False,
        tables=[
            {
                "schema": "crm",
                "table": "invoice",
                "privileges": ["insert"],
                "columns": ["customer", "cents"],
            }
        ],
        sequences=[{"schema": "crm", "sequence": "invoice_id_seq"}],
    )
    _, held = await made.issue()
    await run(held.values, "INSERT INTO crm.invoice (customer, cents) VALUES (1, 5)")
    state = await refused(held, "INSERT INTO crm.invoice (id, customer, cents) VALUES (9, 1, 5)")
    assert state == "42501"
    assert await refused(held, "SELECT * FROM crm.invoice") == "42501"


@pytest.mark.parametrize(
    "grant",
    [
        {"sequences": [{"schema": "crm", "sequence": "invoice_id_seq"}]},
        {"tables": [{"schema": "crm", "table": "narrow", "columns": ["id"]}]},
        {"tables": [{"schema": "crm", "table": "gone", "privileges": ["delete"]}]},
        {"tables": [{"schema": "crm", "table": "*", "privileges": ["select", "update"]}]},
    ],
    ids=["sequence", "column", "delete", "all"],
)
async def test_whatever_was_granted_can_be_taken_back_with_as_little_as_it_took_to_grant_it(
    target: Crm, grant: dict[str, Any]
):
    """`DROP OWNED` wants more: the grant option on columns that the grant never named."""
    target.seat.ask("DROP TABLE IF EXISTS crm.narrow, crm.gone")
    if "*" not in str(grant):
        target.seat.ask("CREATE TABLE crm.narrow (id int, card text); CREATE TABLE crm.gone ()")
        target.seat.ask(f"GRANT SELECT (id) ON crm.narrow TO {ADMIN} WITH GRANT OPTION")
        target.seat.ask(f"GRANT DELETE ON crm.gone TO {ADMIN} WITH GRANT OPTION")
    made = lab(target, read_only=False, **grant)
    lease, held = await made.issue()
    await run(held.values, "SELECT 1")
    assert (await made.revoke(lease, held)).confirmed
    assert lease.handle not in target.seat.roles()


async def test_every_table_of_a_schema(target: Crm):
    _, held = await lab(target, tables=[{"schema": "crm", "table": "*"}]).issue()
    assert await run(held.values, 'SELECT * FROM crm."odd ""name; drop"') == []


async def test_a_group_role_is_used_and_cannot_be_become_where_the_server_can_say_so(target: Crm):
    made = lab(target, roles=["crm_reader"])
    lease, held = await made.issue()
    assert len(await run(held.values, "SELECT * FROM crm.customer")) == 2
    if target.server.programs.parts[-2] != "15":
        assert await refused(held, "SET ROLE crm_reader") == "42501"
    await made.revoke(lease, held)
    assert not target.seat.roles() & {lease.handle}


@pytest.mark.parametrize("name", ["odd", "postgres", ADMIN])
async def test_a_group_role_with_powers_is_refused_and_nothing_is_left(target: Crm, name: str):
    if name == "odd":
        target.seat.ask("DROP ROLE IF EXISTS odd")
        target.seat.ask("CREATE ROLE odd IN ROLE pg_read_server_files")
        target.seat.ask(f"GRANT odd TO {ADMIN} WITH ADMIN OPTION")
    made = lab(target, roles=[name])
    before = target.seat.roles()
    with pytest.raises(NotMintedError, match="reaches further"):
        await made.issue()
    assert target.seat.roles() == before


@pytest.mark.parametrize(
    ("grant", "words"),
    [
        ({"tables": [{"schema": "crm", "table": "missing"}]}, "42P01"),
        ({"tables": [{"schema": "missing", "table": "customer"}]}, "3F000"),
        ({"tables": [{"schema": "crm", "table": "customer", "columns": ["no"]}]}, "42703"),
        ({"tables": [{"schema": "crm", "table": '"; DROP TABLE crm.customer; --'}]}, "42P01"),
        ({"tables": [{"schema": "pg_catalog", "table": "pg_authid"}]}, "42501"),
        ({"roles": ["missing"]}, "42704"),
    ],
)
async def test_what_cannot_be_granted_leaves_nothing_half(
    target: Crm, grant: dict[str, Any], words: str
):
    made = lab(target, **grant)
    before = target.seat.roles()
    with pytest.raises(BrokerError) as caught:
        await made.issue()
    assert words in str(caught.value)
    assert target.seat.roles() == before
    assert target.seat.ask("SELECT count(*) FROM crm.customer") == [(2,)]


async def test_a_grant_that_is_a_warning_only_is_found_out(target: Crm):
    """``GRANT`` by one who holds the privilege without its grant option says so and goes on."""
    target.seat.ask("CREATE TABLE IF NOT EXISTS crm.seen (id int)")
    target.seat.ask(f"GRANT SELECT ON crm.seen TO {ADMIN}")
    made = lab(target, tables=[{"schema": "crm", "table": "seen"}])
    before = target.seat.roles()
    with pytest.raises(NotMintedError, match=r"cannot grant select on .*seen"):
        await made.issue()
    assert target.seat.roles() == before


async def test_the_role_has_no_powers_an_end_and_the_task_in_its_sessions(target: Crm):
    lease, held = await lab(target).issue()
    row = target.seat.ask(
        "SELECT rolsuper OR rolinherit OR rolcreaterole OR rolcreatedb OR rolreplication OR "
        "rolbypassrls, rolconnlimit, rolvaliduntil FROM pg_roles WHERE rolname = %s",
        lease.handle,
    )
    assert row == [(False, 4, lease.expires_at)]
    [(application,)] = await run(held.values, "SHOW application_name")
    assert lease.task in application
    bare = {"url": f"postgresql://{lease.handle}:{held.values['password']}@"
            f"{held.values['host']}:{held.values['port']}/crm"}  # fmt: skip
    assert await run(bare, "SHOW application_name") == [(application,)]
    assert await run(bare, "SHOW statement_timeout") == [("1min",)]


async def test_the_password_stands_in_no_log_of_the_server(target: Crm):
    lease, held = await lab(target).issue()
    assert await target.accepts(held)
    logged = target.server.log.read_text(errors="replace")
    assert lease.handle in logged, "the server logs statements here"
    assert held.values["password"] not in logged
    assert ADMIN_PASSWORD not in re.sub(r".*CREATE ROLE remit_admin.*", "", logged)


async def test_a_session_that_is_open_ends_with_its_lease(target: Crm):
    made = lab(target)
    lease, held = await made.issue()
    connection = await psycopg.AsyncConnection.connect(held.values["url"], autocommit=True)
    await connection.execute("BEGIN")
    busy = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
    active = "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND state = 'active'"
    await until(target, active, lease.handle)
    answer = await made.revoke(lease, held)
    assert answer.confirmed
    with pytest.raises(psycopg.OperationalError):
        await busy
    assert lease.handle not in target.seat.roles()
    await connection.close()


async def test_what_it_owns_in_any_database_goes_with_it(target: Crm):
    """PUBLIC may create where an administrator left it so; nothing of that keeps a role alive."""
    for database in ("crm", "other"):
        target.seat.ask("GRANT CREATE ON SCHEMA public TO PUBLIC", database=database)
    made = lab(target, read_only=False, **READ)
    lease, held = await made.issue()
    await run(held.values, "CREATE TABLE public.mine (id int)")
    await run(held.values, "CREATE TABLE public.mine (id int)", "other")
    await run(held.values, "SELECT lo_create(0)")
    answer = await made.revoke(lease, held)
    assert answer.confirmed
    for database in ("crm", "other"):
        assert target.seat.ask("SELECT to_regclass('public.mine')", database=database) == [(None,)]
    assert lease.handle not in target.seat.roles()


async def test_what_others_built_on_it_keeps_the_role_but_lets_nobody_in(target: Crm):
    target.seat.ask("GRANT CREATE ON SCHEMA public TO PUBLIC")
    made = lab(target, read_only=False, **READ)
    lease, held = await made.issue()
    await run(held.values, "CREATE TABLE public.base (id int)")
    target.seat.ask("CREATE VIEW public.above AS SELECT * FROM public.base")
    with pytest.raises(BrokerError, match="2BP01"):
        await made.revoke(lease, held)
    assert not await target.accepts(held)
    assert lease.handle in await made.alive(), "it is owned up to"
    target.seat.ask("DROP VIEW public.above")
    assert (await made.revoke(lease, held)).confirmed
    assert lease.handle not in target.seat.roles()


async def test_what_it_owns_is_handed_on_where_that_was_asked_for(server: Server, tmp_path: Path):
    seat = Seat(server)
    seat.ask("DROP ROLE IF EXISTS archive")
    seat.ask(f"CREATE ROLE archive; GRANT archive TO {ADMIN}")
    seat.ask("GRANT CREATE ON SCHEMA public TO PUBLIC")
    target = Crm(server, broker(server, tmp_path, owned="reassign", reassign_to="archive"))
    made = lab(target, read_only=False, **READ)
    try:
        lease, held = await made.issue()
        await run(held.values, "CREATE TABLE public.kept (id int)")
        assert (await made.revoke(lease, held)).confirmed
        owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'kept'"
        assert seat.ask(owner) == [("archive",)]
        seat.ask("ALTER ROLE archive CREATEROLE")
        lease, held = await made.issue()
        with pytest.raises(BrokerError, match="powers"):
            await made.revoke(lease, held)
        seat.ask("ALTER ROLE archive NOCREATEROLE")
        assert (await made.revoke(lease, held)).confirmed
    finally:
        await target.broker.close()
        seat.ask("DROP OWNED BY archive; DROP ROLE archive")


async def test_a_lease_is_five_round_trips(target: Crm, monkeypatch: pytest.MonkeyPatch):
    """Twenty-two once: each is a wait of its own on a network, and holds the lock up."""
    waits: list[str] = []
    wait = psycopg.AsyncConnection.wait

    async def counted(self: Any, *given: Any, **more: Any) -> Any:
        waits.append("round trip")
        return await wait(self, *given, **more)

    made = lab(target)
    await made.revoke(*await made.issue())
    monkeypatch.setattr(psycopg.AsyncConnection, "wait", counted)
    lease, held = await made.issue()
    assert len(waits) == 3, "the first of them while the lease becomes durable"
    assert (await made.revoke(lease, held)).confirmed
    assert len(waits) == 5


async def test_a_mint_that_was_refused_holds_no_lock_and_leaves_no_transaction(target: Crm):
    made = lab(target, tables=[{"schema": "crm", "table": "missing"}])
    with pytest.raises(NotMintedError):
        await made.issue()
    ours = "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND xact_start IS NOT NULL"
    await until(target, f"SELECT 1 WHERE NOT EXISTS ({ours})", ADMIN)
    locks = target.seat.ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")
    assert locks == []


async def test_a_session_that_begins_while_its_role_is_closed_is_ended_too(target: Crm):
    """As one that had been let in and was on no list yet when the others were ended."""
    made = lab(target)
    lease, held = await made.issue()
    late = await psycopg.AsyncConnection.connect(held.values["url"], autocommit=True)
    oid = oid_of(target, lease.handle)
    rows = taking(lease.handle, [(False, "crm", "customer", None, "SELECT")])
    admin = await psycopg.AsyncConnection.connect(
        target.server.dsn(ADMIN, ADMIN_PASSWORD, "crm"), autocommit=True
    )
    async with admin:
        assert await drop(admin, lease.handle, oid, rows)
    with pytest.raises(psycopg.OperationalError):
        await late.execute("SELECT 1")
    await late.close()
    assert (await made.revoke(lease, held)).confirmed


def oid_of(target: Crm, role: str) -> int:
    [(oid,)] = target.seat.ask("SELECT oid::int8 FROM pg_roles WHERE rolname = %s", role)
    return int(oid)


async def test_kept_connections_that_the_server_ended_are_not_used_again(target: Crm):
    made = lab(target)
    await made.revoke(*await made.issue())
    ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s"
    assert target.seat.ask(ended, ADMIN) == [(True,)] * 2, "one to mint, and one to revoke"
    lease, held = await made.issue()
    assert target.seat.ask(ended, ADMIN) == [(True,)]
    assert (await made.revoke(lease, held)).confirmed


async def test_a_role_is_not_there_before_its_lease_is_durable(target: Crm):
    """What a mint does meanwhile keeps no revocation waiting, however long the disk takes."""
    made = lab(target)
    others = [await made.issue() for _ in range(6)]
    durable = asyncio.Event()

    async def disk() -> None:
        await durable.wait()

    orders = [made.order(durable=disk) for _ in range(6)]
    minting = [asyncio.create_task(target.broker.issue(order)) for order in orders]
    await until(target, "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction'")
    revoked = await asyncio.gather(*(made.revoke(*each) for each in others))
    assert all(each.confirmed for each in revoked)
    handles = {order.lease.handle for order in orders}
    assert not handles & await made.alive()
    durable.set()
    minted = await asyncio.gather(*minting)
    assert handles <= await made.alive()
    for order, credential in zip(orders, minted, strict=True):
        assert await target.accepts(credential)
        assert (await target.broker.revoke(order.lease, None)).confirmed


@pytest.mark.parametrize(("ours", "rounds"), [(False, 4096), (True, 1)])
async def test_the_rounds_of_a_password_are_spared_where_remit_itself_logs_in(
    target: Crm, ours: bool, rounds: int
):
    order = lab(target).order(ours=ours)
    credential = await target.broker.issue(order)
    asked = "SELECT rolpassword FROM pg_authid WHERE rolname = %s"
    [(verifier,)] = target.seat.ask(asked, order.lease.handle)
    assert verifier.startswith(f"SCRAM-SHA-256${rounds}:")
    assert await target.accepts(credential)
    assert (await target.broker.revoke(order.lease, None)).confirmed


@pytest.mark.parametrize("how", ["full", "given up"])
async def test_a_lease_that_does_not_become_durable_leaves_no_role(target: Crm, how: str):
    made = lab(target)

    async def disk() -> None:
        if how == "full":
            raise EvidenceError("the disk is full")
        await asyncio.Event().wait()

    order = made.order(durable=disk)
    minting = asyncio.create_task(target.broker.issue(order))
    if how == "given up":
        await until(target, "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction'")
        minting.cancel()
    with pytest.raises(EvidenceError if how == "full" else asyncio.CancelledError):
        await minting
    assert order.lease.handle not in await made.alive()
    lease, credential = await made.issue()
    assert await target.accepts(credential)
    assert (await made.revoke(lease, credential)).confirmed


async def test_a_role_that_was_given_more_meanwhile_is_dropped_all_the_same(target: Crm):
    """What this run gave is all that a revocation takes away at first, and not all it knows of."""
    made = lab(target)
    lease, held = await made.issue()
    with psycopg.connect(target.server.dsn(ADMIN, ADMIN_PASSWORD, "crm")) as account:
        account.execute(f'GRANT INSERT (name), UPDATE (name) ON crm.customer TO "{lease.handle}"')
        account.execute(f'GRANT SELECT ON crm.invoice TO "{lease.handle}"')
    assert (await made.revoke(lease, held)).confirmed
    assert lease.handle not in target.seat.roles()


async def test_a_mint_that_is_under_way_is_waited_for_by_its_revocation(target: Crm):
    """The transaction of a process that was killed may still commit: not after its revocation."""
    made = lab(target)
    order = made.order()
    with psycopg.connect(target.server.dsn(ADMIN, ADMIN_PASSWORD, "crm")) as late:
        late.execute("SELECT pg_advisory_xact_lock(823451907)")
        late.execute(f'CREATE ROLE "{order.lease.handle}" LOGIN ROLE {ADMIN}')
        revoking = asyncio.create_task(target.broker.revoke(order.lease, None))
        await until(target, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        late.commit()
    assert (await revoking).confirmed
    assert order.lease.handle not in target.seat.roles()


async def test_roles_of_others_are_neither_named_nor_touched(target: Crm):
    target.seat.ask('DROP ROLE IF EXISTS "remit-0badcaff-00"')
    target.seat.ask('CREATE ROLE "remit-0badcaff-00"')
    made = lab(target)
    assert "remit-0badcaff-00" not in (await target.broker.census([])).alive
    lease = made.order().lease
    for handle in ("remit-0badcaff-00", "postgres", INSTALLATION, f"{INSTALLATION}-" + "x" * 60):
        with pytest.raises(BrokerError, match="no name of this installation"):
            await target.broker.revoke(lease.moved(lease.state, handle=handle), None)
    assert target.seat.roles("remit-0badcaff")


async def test_the_survey_says_what_public_may_do_and_what_the_account_is(target: Crm):
    target.seat.ask("GRANT SELECT ON crm.invoice TO PUBLIC")
    target.seat.ask(
        "CREATE OR REPLACE FUNCTION crm.power() RETURNS int LANGUAGE sql SECURITY DEFINER "
        "AS 'SELECT 1'"
    )
    target.seat.ask("GRANT CREATE ON SCHEMA public TO PUBLIC")
    try:
        found = await target.broker.survey()
        said = "\n".join(each.said for each in found)
        assert "table crm.invoice" in said
        assert "crm.power()" in said
        assert "schema public" in said
        assert "database `other`" in said
        assert "REVOKE CONNECT ON DATABASE other FROM PUBLIC" in said
        assert "superuser" not in said
        assert "temporary tables" not in said
        assert not any(each.stops for each in found)
        target.seat.ask(f"ALTER ROLE {ADMIN} NOCREATEROLE")
        [stopping] = [each.said for each in await target.broker.survey() if each.stops]
        assert "may not create roles" in stopping
    finally:
        target.seat.ask(f"ALTER ROLE {ADMIN} CREATEROLE")
        target.seat.ask("REVOKE SELECT ON crm.invoice FROM PUBLIC; DROP FUNCTION crm.power()")


async def test_a_wrong_password_of_the_account_is_said_without_it(server: Server, tmp_path: Path):
    made = broker(server, tmp_path)
    (tmp_path / "admin-password").write_text("quite-wrong-7734")
    target = Crm(server, made)
    with pytest.raises(NotMintedError, match=r"cannot be used as `remit_admin`") as caught:
        await lab(target).issue()
    assert "quite-wrong" not in str(caught.value)
    await made.close()


async def test_a_session_that_outlived_its_role_is_not_called_over(target: Crm):
    lease = lab(target).order().lease
    target.seat.ask("CREATE ROLE outlived LOGIN PASSWORD 'a-word-for-a-test'")
    where = target.server.dsn("outlived", "a-word-for-a-test", "crm")
    async with await psycopg.AsyncConnection.connect(where, autocommit=True) as session:
        target.seat.ask("DROP ROLE outlived")
        await session.execute("SELECT 1")  # the server does not end it with its role
        answer = await target.broker.revoke(lease, None)
        assert not answer.confirmed
        assert "session" in (answer.detail or "")
    nobodys = "SELECT FROM pg_stat_activity WHERE usesysid IS NOT NULL AND usename IS NULL"
    await until(target, f"SELECT 1 WHERE NOT EXISTS ({nobodys})")
    assert (await target.broker.revoke(lease, None)).confirmed
