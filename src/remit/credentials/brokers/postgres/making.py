"""Makes a role in a transaction, in two parts; nothing of it lasts unless a commit is asked for."""

from __future__ import annotations

from datetime import datetime

import msgspec
from psycopg import sql

from remit.credentials.brokers.postgres.admin import Connection, rows_of
from remit.credentials.brokers.postgres.disowning import LOCK, WHO
from remit.credentials.brokers.postgres.grants import Grant, creation, lacking, privileges
from remit.credentials.brokers.postgres.password import Password
from remit.credentials.brokers.postgres.survey import powerful
from remit.model.errors import NotMintedError

OLDEST = 140_000
"""PostgreSQL 14: the first that waits for a session's end when it is told to end it."""

_GROUPS_BY_SET = 160_000


class Mint(msgspec.Struct, frozen=True, kw_only=True):
    """One mint under way; not printed, for it holds the password."""

    role: str
    password: Password
    application: str
    grant: Grant
    expires_at: datetime

    def __repr__(self) -> str:
        return f"<mint of {self.role}>"


async def begin(connection: Connection, mint: Mint) -> None:
    """Begin, and make the role, which takes the server longest: the rounds of the password.

    Raises:
        NotMintedError: the server is too old, or a group role has too much power.
        psycopg.Error: the server failed.
    """
    if connection.info.server_version < OLDEST:
        raise NotMintedError("PostgreSQL 14 or later is needed")
    making = creation(
        mint.role,
        verifier=mint.password.verifier,
        grant=mint.grant,
        expires_at=mint.expires_at,
        application=mint.application,
    )
    beginning = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED; {}")
    await connection.execute(beginning.format(making))
    if mint.grant.roles and (found := await powerful(connection, mint.grant.roles)):
        raise NotMintedError(
            f"group role `{found}` reaches further than a database's tables: "
            "take its powers away, or name another"
        )


async def give(connection: Connection, mint: Mint, user: str) -> int:
    """Give the role its privileges, and compare them with what was asked for; return its oid.

    Raises:
        NotMintedError: ``user`` cannot grant one of them; a transaction is open still.
        psycopg.Error: the server failed.
    """
    database = connection.info.dbname
    by_set = connection.info.server_version >= _GROUPS_BY_SET
    give = sql.SQL("{}; {}; {}; {}").format(
        LOCK,
        privileges(mint.role, mint.grant, database=database, groups_by_set=by_set),
        WHO.format(name=sql.Literal(mint.role)),
        lacking(mint.role, mint.grant, database=database),
    )
    *_, who, missing = await rows_of(connection, give)
    if missing:
        raise NotMintedError(f"`{user}` cannot grant {missing[0][0]}: give it the grant option")
    return int(who[0][0])
