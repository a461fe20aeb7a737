"""Runs what was read of a statement, under a role minted for it, on a connection of its own.

A query runs in a read-only transaction through a cursor, so that the server itself refuses what
is no query and no more rows come than may be told; a write commits only once its answer is whole.
The extended protocol takes one statement and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg

from remit.gateway.forward import UnreachableError
from remit.gateway.sql.lineage import Lineage
from remit.gateway.sql.options import SqlOptions
from remit.model.errors import InputError, UpstreamError
from remit.model.lease import Credential

_WHOLE_IN_JSON = 2**53
_Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What came of a statement. ``truncated``: there are more rows than are told."""

    columns: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = field(default_factory=list, repr=False)
    count: int = 0
    truncated: bool = False

    def json(self) -> bytes:
        """Return it as JSON; what JSON has no form for is text."""
        told = {
            "columns": self.columns,
            "rows": [[_plain(value) for value in row] for row in self.rows],
            "row_count": self.count,
            "truncated": self.truncated,
        }
        return msgspec.json.encode(told, enc_hook=str)


class RefusedError(UpstreamError):
    """The server said no: nothing was changed. The message is for the agent."""


class LostError(UnreachableError):
    """The database went away before a commit was asked for, so nothing was changed."""


async def run(
    lineage: Lineage, parameters: Sequence[Any], credential: Credential, options: SqlOptions
) -> Rows:
    """Run one statement.

    Raises:
        UnreachableError: it certainly changed nothing: it did not run, or was not committed.
        RefusedError: the server refused it, and nothing was changed.
        UpstreamError: whether it was carried out is not known.
    """
    url = credential.values.get("url")
    if url is None:
        raise UnreachableError("the broker gives no `{url}`: a `postgres` broker does")
    connection = await _connect(url, options)
    async with connection:
        if lineage.kind == "select":
            return await _query(connection, lineage, parameters, options)
        return await _write(connection, lineage, parameters, options)


async def _connect(url: str, options: SqlOptions) -> _Connection:
    milliseconds = max(1, round(options.statement_seconds * 1000))
    settings = (
        f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
        "-c search_path=pg_catalog -c standard_conforming_strings=on -c client_min_messages=error"
    )
    try:
        async with asyncio.timeout(options.connect_seconds):
            return await psycopg.AsyncConnection.connect(
                url, options=settings, client_encoding="utf8"
            )
    except TimeoutError:
        why = f"it did not answer within {options.connect_seconds:g} seconds"
    except psycopg.Error as error:
        why = _why_not_connected(error)
    raise UnreachableError(
        f"the database lets nobody in with the credential: {why}; nothing was run, so repeat the "
        "call later, and tell whoever operates the database if it stays so"
    )


async def _query(
    connection: _Connection, lineage: Lineage, parameters: Sequence[Any], options: SqlOptions
) -> Rows:
    try:
        await connection.set_read_only(True)
        async with (
            connection.transaction(),
            psycopg.AsyncRawServerCursor(connection, "remit") as cursor,
        ):
            await cursor.execute(lineage.text.encode(), parameters)
            rows = await cursor.fetchmany(options.max_rows + 1)
            columns = tuple(each.name for each in cursor.description or ())
    except psycopg.Error as error:
        raise _ended(error, connection) from error
    told = rows[: options.max_rows]
    return _bounded(
        Rows(columns=columns, rows=told, count=len(told), truncated=len(rows) > len(told)), options
    )


async def _write(
    connection: _Connection, lineage: Lineage, parameters: Sequence[Any], options: SqlOptions
) -> Rows:
    committing = False
    try:
        async with connection.transaction(), psycopg.AsyncRawCursor(connection) as cursor:
            await cursor.execute(lineage.text.encode(), parameters, prepare=True)
            found = Rows(count=cursor.rowcount)
            if cursor.description is not None:
                rows = await cursor.fetchmany(options.max_rows + 1)
                if len(rows) > options.max_rows:
                    raise RefusedError(
                        f"it returns more than {options.max_rows} rows, so nothing was changed: "
                        "narrow it, or leave `returning` out"
                    )
                columns = tuple(each.name for each in cursor.description)
                found = Rows(columns=columns, rows=rows, count=cursor.rowcount)
            found = _bounded(found, options)
            committing = True
    except psycopg.Error as error:
        if committing and (error.sqlstate is None or error.sqlstate[:2] in {"08", "57"}):
            raise UpstreamError(
                "the database went away before it said whether it committed: look what stands "
                "there before you repeat the call"
            ) from error
        raise _ended(error, connection) from error
    return found


def _bounded(found: Rows, options: SqlOptions) -> Rows:
    if len(found.json()) > options.max_bytes:
        raise RefusedError(
            f"the answer is larger than {options.max_bytes} bytes: ask for fewer rows or columns"
        )
    return found


_GOING = frozenset({"57P01", "57P02", "57P03", "57P05"})
"""What a server says that ends a session, of its own accord or an operator's."""


def _ended(error: psycopg.Error, connection: _Connection) -> UpstreamError:
    """Return what an error before the commit means: whatever was done is rolled back."""
    state = error.sqlstate
    if connection.closed or state in _GOING or (state or "").startswith("08"):
        return LostError(
            "the database went away while the statement ran; it was not committed, so nothing was "
            "changed: repeat the call once the database is back"
        )
    if state is None:
        # It was never sent: the driver has no form for one of the values.
        return RefusedError("a parameter has no form in the database's protocol; nothing was run")
    said = error.diag.message_primary or "the database refused it"
    return RefusedError(f"{said[:300]} ({state}); nothing was changed")


_NOT_THE_ROLE = ("authentication failed", "not permitted to log in", "no pg_hba.conf entry")
_NOT_YET = ("starting up", "shutting down", "recovery mode", "not yet accepting")
_FULL = ("too many connections", "too many clients", "remaining connection slots")


def _why_not_connected(error: psycopg.Error) -> str:
    """Say why nobody was let in; the server's text names the role and the address, so not in it."""
    text = str(error)
    for signs, why in (
        (_NOT_THE_ROLE, "it refuses the role that was made for this call or task"),
        (_NOT_YET, "it is starting or stopping"),
        (_FULL, "it has no room for another connection"),
    ):
        if any(sign in text for sign in signs):
            return why
    return "it does not answer"


def parameters_of(arguments: Any, wanted: int) -> list[Any]:
    """Return the values of `$1`, `$2` and so on.

    Raises:
        InputError: there are too few or too many, or one is neither text, number, truth nor null.
    """
    given = [] if arguments is None else arguments
    if not isinstance(given, list):
        raise InputError("`parameters` has to be a list")
    if len(given) != wanted:
        raise InputError(f"the statement takes {wanted} parameters, and {len(given)} are given")
    for value in given:
        if not isinstance(value, str | int | float | bool | None) or "\x00" in str(value):
            raise InputError("a parameter is text, a number, true, false or null")
    return given


def _plain(value: Any) -> Any:
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, int) and abs(value) > _WHOLE_IN_JSON:
        return str(value)
    if isinstance(value, bytes | memoryview):
        return f"\\x{bytes(value).hex()}"
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value
