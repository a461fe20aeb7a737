"""Closes a role, and takes away all that it holds, with no more than it took to give it.

``DROP OWNED`` revokes every privilege on every column, and fails where the account may not grant
one of them, though nothing of the kind was ever given. So what the catalogue says is held on
tables, columns and sequences is revoked first, by its name; the rest is left to ``DROP OWNED``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from remit.credentials.brokers.postgres.admin import Connection, rows_of

LOCK = sql.SQL("SELECT pg_catalog.pg_advisory_xact_lock(823451907)")
"""Mints and revocations of one database wait for each other."""

_TERMINATE_MILLISECONDS = 1000

# It need not reach the disk: a server that forgets it has forgotten the sessions as well.
_SHUT = sql.SQL(
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off; {lock}; "
    "ALTER ROLE {role} NOLOGIN PASSWORD NULL; COMMIT"
)
# What the views pg_roles and pg_stat_activity are made from costs less to plan than they do, and
# every GRANT makes a server plan anew.
WHO = sql.SQL("SELECT to_regrole(quote_ident({name}))::oid::int8")
_END = sql.SQL(
    "SELECT pg_terminate_backend(pid, {milliseconds}) FROM pg_stat_get_activity(NULL) "
    "WHERE usesysid = to_regrole(quote_ident({name}))::oid"
)
_ELSEWHERE = sql.SQL(
    "SELECT DISTINCT d.datname FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid "
    "WHERE s.refclassid = 'pg_authid'::regclass "
    "AND s.refobjid = to_regrole(quote_ident({name}))::oid "
    "AND d.datname <> current_database()"
)
_HELD = sql.SQL("""
WITH me AS (
    SELECT to_regrole(quote_ident({name}))::oid AS role
), touched AS (
    SELECT DISTINCT objid FROM pg_shdepend, me
    WHERE refclassid = 'pg_authid'::regclass AND refobjid = role AND deptype = 'a'
      AND classid = 'pg_class'::regclass
      AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
), held AS (
    SELECT c.oid, NULL::name AS attname, x.privilege_type
    FROM pg_class c JOIN touched t ON t.objid = c.oid CROSS JOIN aclexplode(c.relacl) x
    JOIN me ON x.grantee = role
    UNION ALL
    SELECT a.attrelid, a.attname, x.privilege_type
    FROM pg_attribute a JOIN touched t ON t.objid = a.attrelid CROSS JOIN aclexplode(a.attacl) x
    JOIN me ON x.grantee = role
)
SELECT c.relkind = 'S', n.nspname, c.relname, h.attname, h.privilege_type
FROM held h JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
""")
_GONE = sql.SQL(
    "SELECT (SELECT count(*) FROM pg_roles WHERE oid = {oid} OR rolname = {name}), "
    "(SELECT count(*) FROM pg_stat_get_activity(NULL) WHERE usesysid = {oid})"
)
_PRIVILEGES = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"}
    | {"USAGE"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at a role found: sessions that it ended, and what the role holds.

    ``elsewhere``: other databases in which it owns or may do something. ``held``: privileges here.
    """

    oid: int
    ended: int
    elsewhere: tuple[str, ...]
    held: Sequence[tuple[Any, ...]]


async def shut(connection: Connection, role: str) -> int:
    """Let nobody log in any more; once that is committed, end the sessions: return how many.

    Raises:
        psycopg.errors.UndefinedObject: there is no such role; a transaction is open still.
        psycopg.Error: the server failed.
    """
    closing = _SHUT.format(lock=LOCK, role=sql.Identifier(role))
    *_, ended = await rows_of(connection, sql.SQL("{}; {}").format(closing, _ending(role)))
    return len(ended)


async def look(connection: Connection, role: str) -> Look:
    """End the sessions that there are now, and look around.

    Raises:
        psycopg.Error: the server failed.
    """
    # One transaction, for the list of sessions stays as it was first seen until a transaction ends.
    name = sql.Literal(role)
    looking = [WHO.format(name=name), _ending(role), _ELSEWHERE.format(name=name), held(role)]
    *_, who, ended, elsewhere, holds = await rows_of(connection, sql.SQL("; ").join(looking))
    return Look(
        oid=int(who[0][0] or 0),
        ended=len(ended),
        elsewhere=tuple(row[0] for row in elsewhere),
        held=holds,
    )


def _ending(role: str) -> sql.Composed:
    return _END.format(name=sql.Literal(role), milliseconds=sql.Literal(_TERMINATE_MILLISECONDS))


async def drop(connection: Connection, role: str, oid: int, disowning: sql.Composed) -> bool:
    """Take away what the role has here, drop it, and ask; return whether nothing of it is left.

    ``oid``: the role's, which sessions that outlive it still show.

    Raises:
        psycopg.Error: something of somebody else's depends on what it owns, or the server failed.
    """
    *_, left = await rows_of(
        connection,
        sql.SQL(
            # Whoever was logging in when the role was closed has turned up by now.
            "{ending}; BEGIN ISOLATION LEVEL READ COMMITTED; {lock}; {disowning}; "
            "DROP ROLE {role}; COMMIT; {gone}"
        ).format(
            ending=_ending(role),
            lock=LOCK,
            disowning=disowning,
            role=sql.Identifier(role),
            gone=_GONE.format(oid=sql.Literal(oid), name=sql.Literal(role)),
        ),
    )
    return left == [(0, 0)]


def held(role: str) -> sql.Composed:
    """Return the query for what was granted to the role by name in this database."""
    return _HELD.format(name=sql.Literal(role))


def taking(role: str, held: Sequence[tuple[Any, ...]]) -> sql.Composed:
    """Return the statements that revoke what :func:`held` found, and drop what the role owns."""
    name = sql.Identifier(role)
    statements = [
        _revocation(name, sequence=row[0], on=(row[1], row[2]), column=row[3], privilege=row[4])
        for row in held
        if row[4] in _PRIVILEGES
    ]
    return disowning(role, statements)


def disowning(role: str, revocations: Sequence[sql.Composed]) -> sql.Composed:
    """Return the statements that take away what was granted by name, and drop what the role owns."""
    owned = sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role))
    return sql.SQL("; ").join([*revocations, owned])


def _revocation(
    name: sql.Identifier, *, sequence: bool, on: tuple[str, str], column: str | None, privilege: str
) -> sql.Composed:
    what: sql.Composable = sql.SQL(privilege)  # one of the closed set above
    if column is not None:
        what = sql.SQL("{} ({})").format(what, sql.Identifier(column))
    return sql.SQL("REVOKE {} ON {} {} FROM {}").format(
        what, sql.SQL("SEQUENCE" if sequence else "TABLE"), sql.Identifier(*on), name
    )
