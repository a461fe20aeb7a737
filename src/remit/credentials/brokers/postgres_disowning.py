"""Takes away all that a role holds in one database, with no more than it took to give it.

``DROP OWNED`` revokes every privilege on every column, and fails where the account may not grant
one of them, though nothing of the kind was ever given. So what the catalogue says is held on
tables, columns and sequences is revoked first, by its name; the rest is left to ``DROP OWNED``.
"""

from __future__ import annotations

from psycopg import sql

from remit.credentials.brokers.postgres_admin import Connection

_HELD = """
WITH touched AS (
    SELECT DISTINCT objid FROM pg_shdepend
    WHERE refclassid = 'pg_authid'::regclass AND refobjid = %(role)s AND deptype = 'a'
      AND classid = 'pg_class'::regclass
      AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
), held AS (
    SELECT c.oid, NULL::name AS attname, x.privilege_type
    FROM pg_class c JOIN touched t ON t.objid = c.oid CROSS JOIN aclexplode(c.relacl) x
    WHERE x.grantee = %(role)s
    UNION ALL
    SELECT a.attrelid, a.attname, x.privilege_type
    FROM pg_attribute a JOIN touched t ON t.objid = a.attrelid CROSS JOIN aclexplode(a.attacl) x
    WHERE x.grantee = %(role)s
)
SELECT c.relkind = 'S', n.nspname, c.relname, h.attname, h.privilege_type
FROM held h JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
"""
_PRIVILEGES = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"}
    | {"USAGE"}
)


async def take_away(connection: Connection, role: str, oid: int) -> None:
    """Revoke what the role holds here, and drop what it owns.

    Raises:
        psycopg.Error: something of somebody else's depends on what it owns, or the server failed.
    """
    name = sql.Identifier(role)
    asked = await connection.execute(_HELD, {"role": oid})
    statements = [
        _revocation(name, sequence=row[0], on=(row[1], row[2]), column=row[3], privilege=row[4])
        for row in await asked.fetchall()
        if row[4] in _PRIVILEGES
    ]
    statements.append(sql.SQL("DROP OWNED BY {}").format(name))
    await connection.execute(sql.SQL("; ").join(statements))


def _revocation(
    name: sql.Identifier, *, sequence: bool, on: tuple[str, str], column: str | None, privilege: str
) -> sql.Composed:
    what: sql.Composable = sql.SQL(privilege)  # one of the closed set above
    if column is not None:
        what = sql.SQL("{} ({})").format(what, sql.Identifier(column))
    return sql.SQL("REVOKE {} ON {} {} FROM {}").format(
        what, sql.SQL("SEQUENCE" if sequence else "TABLE"), sql.Identifier(*on), name
    )
