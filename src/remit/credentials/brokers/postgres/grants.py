"""What a lease's role may do in PostgreSQL, as a grant says it, composed into statements.

A name goes into a statement as a quoted identifier and nothing else does: there is no SQL in a
configuration. What was granted is compared with what was asked before the transaction ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
from psycopg import sql

from remit.credentials.tables import read_table
from remit.model.errors import ConfigError

NAME_BYTES = 63
"""What PostgreSQL keeps of a name (NAMEDATALEN - 1): it cuts a longer one without a word."""

Privilege = Literal["select", "insert", "update", "delete"]
_BY_COLUMN = {"select", "insert", "update"}


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a grant."""


class Table(_Part, frozen=True, kw_only=True):
    """Privileges on one table or view, or on every one of a schema (``*``), or on some columns."""

    schema: str
    table: str
    privileges: tuple[Privilege, ...] = ("select",)
    columns: tuple[str, ...] = ()


class Sequence_(_Part, frozen=True, kw_only=True):  # noqa: N801 - the other name is taken
    """The right to draw the next number."""

    schema: str
    sequence: str


class Grant(_Part, frozen=True, kw_only=True):
    """A binding's grant. ``roles`` are group roles, in lieu of privileges or beside them."""

    tables: tuple[Table, ...] = ()
    sequences: tuple[Sequence_, ...] = ()
    schemas: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    read_only: bool = True
    connections: int = 4
    statement_seconds: float = 60.0
    idle_seconds: float = 60.0


def read_grant(raw: Mapping[str, Any]) -> Grant:
    """Return a grant that means something, and names only what a name can be.

    Raises:
        ConfigError: it names the key.
    """
    grant = read_table(raw, Grant)
    if not (grant.tables or grant.sequences or grant.roles):
        raise ConfigError("it grants nothing: name `tables` or `roles`")
    _check_objects(grant)
    _check_groups(grant.roles)
    if not 1 <= grant.connections <= 100:  # noqa: PLR2004 - beyond it a role starves the others
        raise ConfigError("`connections` is 1 to 100")
    for key in ("statement_seconds", "idle_seconds"):
        if not 0 < getattr(grant, key) <= 86_400:  # noqa: PLR2004 - a day; 0 would mean no limit
            raise ConfigError(f"`{key}` is more than 0 and at most 86400")
    return grant


def _check_objects(grant: Grant) -> None:
    for table in grant.tables:
        _check_table(table, read_only=grant.read_only)
    for sequence in grant.sequences:
        check_name(sequence.schema, "sequences.schema")
        check_name(sequence.sequence, "sequences.sequence")
    if grant.sequences and grant.read_only:
        raise ConfigError("`sequences` write: say `read_only = false`")
    for schema in grant.schemas:
        check_name(schema, "schemas")


def _check_groups(roles: tuple[str, ...]) -> None:
    for role in roles:
        check_name(role, "roles")
        if role.startswith("pg_") or role in {"public", "none"}:
            raise ConfigError(
                f"`roles`: `{role}` is the server's own role, which reaches beyond a database; "
                "name one that you made"
            )


def _check_table(table: Table, *, read_only: bool) -> None:
    check_name(table.schema, "tables.schema")
    if table.table != "*":
        check_name(table.table, "tables.table")
    for column in table.columns:
        check_name(column, "tables.columns")
    asked = set(table.privileges)
    if not asked:
        raise ConfigError(f"`tables`: `{table.table}` has no `privileges`")
    if read_only and asked != {"select"}:
        raise ConfigError(
            f"`tables`: `{table.table}` may be written: say `read_only = false` as well"
        )
    if table.columns and table.table == "*":
        raise ConfigError("`tables`: `columns` belong to one table, not to `*`")
    if table.columns and not asked <= _BY_COLUMN:
        raise ConfigError(f"`tables`: `{table.table}`: PostgreSQL cannot limit delete to columns")


def check_name(name: str, key: str) -> str:
    """Return a name that PostgreSQL keeps whole.

    Raises:
        ConfigError: it is empty, too long, or holds what no name can.
    """
    if not name or "\x00" in name or not name.isprintable():
        raise ConfigError(f"`{key}`: a name is printable text, not `{name[:NAME_BYTES]!a}`")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"`{key}`: a name is printable text, not `{name[:63]!a}`") from error
    if size > NAME_BYTES:
        raise ConfigError(
            f"`{key}`: `{name[:20]}…` is longer than the {NAME_BYTES} bytes of a name"
        )
    return name


def creation(
    role: str, *, verifier: str, grant: Grant, expires_at: datetime, application: str
) -> sql.Composed:
    """Return the statements that make the role, all its powers off, the admin as its member.

    The admin's membership is what lets it end the role's sessions and drop what it owns; it
    gives the role nothing.
    """
    name = sql.Identifier(role)
    settings = {
        "application_name": application,
        "statement_timeout": f"{round(grant.statement_seconds * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{round(grant.idle_seconds * 1000)}ms",
        "default_transaction_read_only": "on" if grant.read_only else "off",
    }
    make = sql.SQL(
        "CREATE ROLE {name} LOGIN {inherit} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION "
        "NOBYPASSRLS CONNECTION LIMIT {connections} PASSWORD {verifier} VALID UNTIL {until} "
        "ROLE CURRENT_USER"
    ).format(
        name=name,
        inherit=sql.SQL("INHERIT" if grant.roles else "NOINHERIT"),
        connections=sql.Literal(grant.connections),
        verifier=sql.Literal(verifier),
        until=sql.Literal(expires_at.isoformat()),
    )
    sets = [
        sql.SQL("ALTER ROLE {} SET {} = {}").format(name, sql.Identifier(key), sql.Literal(value))
        for key, value in settings.items()
    ]
    return sql.SQL("; ").join([make, *sets])


def privileges(role: str, grant: Grant, *, database: str, groups_by_set: bool) -> sql.Composed:
    """Return the statements that give the role what the grant says.

    ``groups_by_set``: the server (16 and later) can give a group's privileges without letting
    the role become the group.
    """
    to = sql.Identifier(role)
    parts: list[sql.Composed] = [
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), to)
    ]
    schemas = {
        *grant.schemas,
        *(t.schema for t in grant.tables),
        *(s.schema for s in grant.sequences),
    }
    parts += [
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), to)
        for schema in sorted(schemas)
    ]
    parts += [_table("GRANT {} ON {} TO {}", table, to) for table in grant.tables]
    parts += [
        sql.SQL("GRANT USAGE ON SEQUENCE {} TO {}").format(sql.Identifier(s.schema, s.sequence), to)
        for s in grant.sequences
    ]
    how = sql.SQL(" WITH INHERIT TRUE, SET FALSE" if groups_by_set else "")
    parts += [
        sql.SQL("GRANT {} TO {}{}").format(sql.Identifier(group), to, how) for group in grant.roles
    ]
    return sql.SQL("; ").join(parts)


def revocations(role: str, grant: Grant) -> list[sql.Composed]:
    """Return the statements that take the grant's tables, columns and sequences away again."""
    name = sql.Identifier(role)
    return [_table("REVOKE {} ON {} FROM {}", table, name) for table in grant.tables] + [
        sql.SQL("REVOKE USAGE ON SEQUENCE {} FROM {}").format(
            sql.Identifier(s.schema, s.sequence), name
        )
        for s in grant.sequences
    ]


def _table(
    words: Literal["GRANT {} ON {} TO {}", "REVOKE {} ON {} FROM {}"],
    table: Table,
    role: sql.Identifier,
) -> sql.Composed:
    on: sql.Composable
    if table.table == "*":
        on = sql.SQL("ALL TABLES IN SCHEMA {}").format(sql.Identifier(table.schema))
    else:
        on = sql.SQL("TABLE {}").format(sql.Identifier(table.schema, table.table))
    columns: sql.Composable = sql.SQL("")
    if table.columns:
        listed = sql.SQL(", ").join(sql.Identifier(column) for column in table.columns)
        columns = sql.SQL(" ({})").format(listed)
    # The keywords are those of the closed set above.
    what = sql.SQL(", ").join(
        sql.SQL("{}{}").format(sql.SQL(privilege.upper()), columns)
        for privilege in table.privileges
    )
    return sql.SQL(words).format(what, on, role)


def lacking(role: str, grant: Grant, *, database: str) -> sql.Composed:
    """Return the query that names what was asked for and is not there.

    ``GRANT`` by somebody who may not grant is a warning only, so the server is asked.
    """
    who = sql.Literal(role)
    rows = [
        _row(f"connect on database {database}", "has_database_privilege", who, database, "CONNECT")
    ]
    for table in grant.tables:
        rows += _table_rows(table, who)
    for each in grant.sequences:
        on = _regclass(each.schema, each.sequence)
        rows.append(_row(f"usage on sequence {on}", "has_sequence_privilege", who, on, "USAGE"))
    schemas = {
        *grant.schemas,
        *(t.schema for t in grant.tables),
        *(s.schema for s in grant.sequences),
    }
    rows += [
        _row(f"usage on schema {schema}", "has_schema_privilege", who, schema, "USAGE")
        for schema in sorted(schemas)
    ]
    rows += [
        _row(f"membership of {group}", "pg_has_role", who, group, "USAGE") for group in grant.roles
    ]
    return sql.SQL("SELECT what FROM (VALUES {}) AS asked (what, held) WHERE NOT held").format(
        sql.SQL(", ").join(rows)
    )


def _row(what: str, function: str, who: sql.Literal, on: str, privilege: str) -> sql.Composed:
    return sql.SQL("({}, {}({}, {}, {}))").format(
        sql.Literal(what), sql.Identifier(function), who, sql.Literal(on), sql.Literal(privilege)
    )


def _table_rows(table: Table, who: sql.Literal) -> list[sql.Composed]:
    if table.table == "*":
        return [
            sql.SQL(
                "({}, (SELECT coalesce(bool_and(has_table_privilege({}, c.oid, {})), true) "
                "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
                "ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relkind IN "
                "('r', 'p', 'v', 'm', 'f')))"
            ).format(
                sql.Literal(f"{privilege} on every table of schema {table.schema}"),
                who,
                sql.Literal(privilege),
                sql.Literal(table.schema),
            )
            for privilege in table.privileges
        ]
    on = _regclass(table.schema, table.table)
    if not table.columns:
        return [
            _row(f"{privilege} on {on}", "has_table_privilege", who, on, privilege)
            for privilege in table.privileges
        ]
    return [
        sql.SQL("({}, has_column_privilege({}, {}, {}, {}))").format(
            sql.Literal(f"{privilege} on {on} ({column})"),
            who,
            sql.Literal(on),
            sql.Literal(column),
            sql.Literal(privilege),
        )
        for privilege in table.privileges
        for column in table.columns
    ]


def _regclass(schema: str, name: str) -> str:
    return sql.Identifier(schema, name).as_string(None)
