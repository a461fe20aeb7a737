"""A small CRM in a real PostgreSQL, with the least that the broker's account needs to lease it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from postgres import Server

from remit.credentials.brokers.postgres.broker import PostgresBroker
from remit.credentials.port import Surroundings

INSTALLATION = "remit-0badcafe"
ADMIN = "remit_admin"
ADMIN_PASSWORD = "admin-of-the-crm-3f9a"

SCHEMA = """
CREATE SCHEMA crm;
CREATE TABLE crm.customer (id int PRIMARY KEY, name text, card text);
CREATE TABLE crm.invoice (id serial PRIMARY KEY, customer int, cents int);
CREATE TABLE crm."odd ""name; drop" (id int);
INSERT INTO crm.customer VALUES (1, 'Ada', '4111'), (2, 'Grace', '4222');
REVOKE TEMPORARY ON DATABASE crm FROM PUBLIC;
"""
# docs/brokers/postgres.md shows exactly this; tests/docs compares them.
ACCOUNT = """
CREATE ROLE remit_admin LOGIN CREATEROLE PASSWORD '…';
GRANT CONNECT ON DATABASE crm TO remit_admin WITH GRANT OPTION;
GRANT USAGE ON SCHEMA crm TO remit_admin WITH GRANT OPTION;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA crm TO remit_admin WITH GRANT OPTION;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA crm TO remit_admin WITH GRANT OPTION;
"""
GROUP = """
CREATE ROLE crm_reader NOLOGIN;
GRANT USAGE ON SCHEMA crm TO crm_reader;
GRANT SELECT ON crm.customer TO crm_reader;
GRANT crm_reader TO remit_admin WITH ADMIN OPTION;
"""


def lay(server: Server) -> None:
    """Make the database and the account."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE crm")
        connection.execute("CREATE DATABASE other")
    with psycopg.connect(server.dsn(database="crm"), autocommit=True) as connection:
        connection.execute(SCHEMA)
        connection.execute(ACCOUNT.replace("…", ADMIN_PASSWORD))
        connection.execute(GROUP)


def surroundings(
    folder: Path, installation: str = INSTALLATION, clock: Callable[[], datetime] | None = None
) -> Surroundings:
    """Return what the broker may use of the house; it asks for neither HTTP nor a signer."""
    return Surroundings(
        http=None,  # type: ignore[arg-type]
        signer=None,  # type: ignore[arg-type]
        clock=clock or (lambda: datetime.now(UTC)),
        installation=installation,
        state=folder,
        path=lambda text: folder / text,
    )


def options(server: Server, folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the broker's table, with its password in a file of ``folder``."""
    file = folder / "admin-password"
    file.write_text(ADMIN_PASSWORD + "\n")
    file.chmod(0o600)
    return {
        "host": server.host,
        "port": server.port,
        "database": "crm",
        "user": ADMIN,
        "password_file": file.name,
        **changes,
    }


def broker(server: Server, folder: Path, **changes: Any) -> PostgresBroker:
    """Return a broker for the CRM."""
    return PostgresBroker("crm-db", options(server, folder, **changes), surroundings(folder))


@dataclass
class Seat:
    """What asks the server as its superuser, to see what is there."""

    server: Server

    def ask(self, query: str, *parameters: Any, database: str = "crm") -> list[Any]:
        """Return the rows of a query."""
        with psycopg.connect(self.server.dsn(database=database), autocommit=True) as connection:
            done = connection.execute(query, parameters)
            return done.fetchall() if done.description else []

    def roles(self, installation: str = INSTALLATION) -> set[str]:
        """Return the names of every role of an installation."""
        rows = self.ask(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", installation + "-"
        )
        return {row[0] for row in rows}


async def run(values: Mapping[str, str], statement: str, database: str | None = None) -> list[Any]:
    """Run one statement with a minted credential, as whoever was injected with it would."""
    given = {"dbname": database} if database else {}
    connection = await psycopg.AsyncConnection.connect(values["url"], autocommit=True, **given)
    async with connection:
        done = await connection.execute(statement.encode())
        return await done.fetchall() if done.description else []
