"""What a PostgreSQL gives a role beyond its grant: the server is asked, people are told."""

from __future__ import annotations

from collections.abc import Sequence

from remit.credentials.brokers.postgres.admin import Connection
from remit.credentials.port import Finding

_POWERFUL = """
WITH RECURSIVE reach AS (
    SELECT oid FROM pg_roles WHERE rolname = ANY(%s)
    UNION
    SELECT m.roleid FROM pg_auth_members m JOIN reach r ON m.member = r.oid
)
SELECT r.rolname FROM pg_roles r JOIN reach USING (oid)
WHERE r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
   OR starts_with(r.rolname, 'pg_') OR r.rolname = current_user
ORDER BY 1 LIMIT 1
"""

_FINDINGS = (
    (
        "SELECT current_user FROM pg_roles WHERE rolname = current_user AND rolsuper",
        ("the broker's account `{}` is a superuser: it needs CREATEROLE and grant options only"),
    ),
    (
        (
            "SELECT current_user FROM pg_roles WHERE rolname = current_user AND NOT "
            "rolsuper AND NOT rolcreaterole"
        ),
        "the broker's account `{}` may not create roles: ALTER ROLE it CREATEROLE",
    ),
    (
        ("SELECT current_user FROM pg_roles WHERE rolname = current_user AND NOT rolinherit"),
        (
            "the broker's account `{}` does not inherit, so it cannot end its roles: ALTER "
            "ROLE it INHERIT"
        ),
    ),
    (
        (
            "SELECT quote_ident(nspname) FROM pg_namespace WHERE "
            "has_schema_privilege('public', oid, 'CREATE') AND NOT starts_with(nspname, "
            "'pg_temp') ORDER BY 1"
        ),
        "PUBLIC may create objects in schema {0}: REVOKE CREATE ON SCHEMA {0} FROM PUBLIC",
    ),
    (
        (
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = "
            "c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT "
            "IN ('pg_catalog', 'information_schema') AND NOT starts_with(n.nspname, 'pg_t')"
            " AND has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE, "
            "TRUNCATE') ORDER BY 1 LIMIT 20"
        ),
        "PUBLIC may use table {}: every lease's role may as well",
    ),
    (
        (
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid ="
            " p.pronamespace WHERE p.prosecdef AND n.nspname <> 'pg_catalog' AND "
            "has_function_privilege('public', p.oid, 'EXECUTE') ORDER BY 1 LIMIT 20"
        ),
        "PUBLIC may call {}, which runs with its owner's rights (SECURITY DEFINER)",
    ),
    (
        (
            "SELECT quote_ident(datname) FROM pg_database WHERE datallowconn AND datname <> "
            "current_database() AND has_database_privilege('public', oid, 'CONNECT') ORDER "
            "BY 1 LIMIT 20"
        ),
        "PUBLIC may connect to database `{0}` too: REVOKE CONNECT ON DATABASE {0} FROM PUBLIC",
    ),
    (
        (
            "SELECT quote_ident(current_database()) WHERE has_database_privilege('public', "
            "current_database(), 'TEMPORARY')"
        ),
        "PUBLIC may make temporary tables in `{0}`: REVOKE TEMPORARY ON DATABASE {0} FROM PUBLIC",
    ),
)


_STOPS = {query for query, words in _FINDINGS if words.endswith(("CREATEROLE", "INHERIT"))}


async def powerful(connection: Connection, roles: Sequence[str]) -> str | None:
    """Return a role that one of ``roles`` is or can become, and whose powers reach too far."""
    asked = await connection.execute(_POWERFUL, (list(roles),))
    found = await asked.fetchone()
    return None if found is None else str(found[0])


async def survey(connection: Connection) -> list[Finding]:
    """Return what the account lacks or has too much of, and what PUBLIC may do, worst first."""
    findings = []
    for query, words in _FINDINGS:
        asked = await connection.execute(query)
        findings += [
            Finding(said=words.format(row[0]), stops=query in _STOPS)
            for row in await asked.fetchall()
        ]
    return findings
