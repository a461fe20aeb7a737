"""What a statement is said to touch, against PostgreSQL's own word: its column privileges.

A role that may read exactly the columns that were told, and nothing else, can run what was written
out; so no column is read that was not told. And each column told is needed: without it, refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from postgres import Server, postgres_server
from psycopg import sql
from sql_cases import READ, TABLES, Case

from remit.gateway.sql.lineage import Catalogue, Lineage, read

pytestmark = pytest.mark.real

CRM = Catalogue(TABLES, "crm")
DENIED = "42501"


@pytest.fixture(scope="module", params=[None, 18], ids=["oldest", "18"])
def admin(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    with postgres_server(request.param) as server:
        yield from _laid(server)


def _laid(server: Server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.dsn(), autocommit=True, cursor_factory=psycopg.RawCursor) as made:
        made.execute("CREATE SCHEMA crm")
        made.execute("CREATE TABLE crm.customer (id int, name text, card text)")
        made.execute("CREATE TABLE crm.invoice (id int, customer int, cents int)")
        made.execute('CREATE TABLE crm."Odd Name" ("Id" int)')
        made.execute("CREATE ROLE reader")
        made.execute("GRANT USAGE ON SCHEMA crm TO reader")
        made.execute("SET search_path = pg_catalog")
        yield made


def outcome(
    admin: psycopg.Connection, found: Lineage, case: Case, without: str | None = None
) -> str | None:
    """Run it under exactly the privileges told, one left out if named; return the SQLSTATE."""
    try:
        with admin.transaction(force_rollback=True):
            for privilege, columns in _privileges(found):
                for column in columns:
                    if column != without:
                        _grant(admin, privilege, column)
            if found.kind == "delete":
                admin.execute("GRANT DELETE ON crm.customer TO reader")
            admin.execute("SET LOCAL ROLE reader")
            admin.execute(found.text.encode(), case.parameters, prepare=True)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def _privileges(found: Lineage) -> tuple[tuple[str, tuple[str, ...]], ...]:
    writing = {"insert": "INSERT", "update": "UPDATE"}.get(found.kind, "UPDATE")
    return (("SELECT", found.reads), (writing, found.writes))


def _grant(admin: psycopg.Connection, privilege: str, column: str) -> None:
    schema, table, name = column.split(".")
    admin.execute(
        sql.SQL("GRANT {} ({}) ON {} TO reader").format(
            sql.SQL(privilege), sql.Identifier(name), sql.Identifier(schema, table)
        )
    )


@pytest.mark.parametrize("case", READ, ids=lambda case: case.sql)
def test_what_was_told_is_enough_and_no_more_than_needed(admin: psycopg.Connection, case: Case):
    found = read(case.sql, CRM)
    assert outcome(admin, found, case) is None, found.text
    for column in found.reads:
        assert outcome(admin, found, case, without=column) == DENIED, column
