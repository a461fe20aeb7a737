"""The broker's own connections to PostgreSQL: few, kept, and given up when anything goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from remit.credentials.brokers.postgres.options import Address
from remit.model.errors import ConfigError, NotMintedError

Connection = psycopg.AsyncConnection[TupleRow]


@dataclass(slots=True, kw_only=True)
class Desk:
    """Connections of the admin account. ``limit`` at once; whatever fails is not used again.

    ``greet`` is called with the first connection of this run.
    """

    address: Address
    user: str
    password: Callable[[], str] = field(repr=False)
    seconds: float
    limit: int
    greet: Callable[[Connection], Any] | None = None
    _idle: list[Connection] = field(default_factory=list)
    _places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.limit)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection in no transaction.

        Raises:
            NotMintedError: the server cannot be reached, or will not have us.
        """
        async with self._places:
            connection = await self._kept() or await self._connect()
            whole = False
            try:
                yield connection
                whole = not connection.closed
            finally:
                if whole:
                    self._idle.append(connection)
                else:
                    await connection.close()

    @contextlib.asynccontextmanager
    async def visiting(self, database: str) -> AsyncIterator[Connection]:
        """Lend a connection to another database, made for this alone and not counted.

        Raises:
            NotMintedError: the server cannot be reached, or will not have us.
        """
        connection = await self._connect(database)
        try:
            yield connection
        finally:
            await connection.close()

    async def _kept(self) -> Connection | None:
        """A kept connection whose server has not gone meanwhile, even where it came back."""
        while self._idle:
            connection = self._idle.pop()
            if _quiet(connection):
                return connection
            await connection.close()
        return None

    async def _connect(self, database: str | None = None) -> Connection:
        parameters = self.address.parameters() | {
            "user": self.user,
            "application_name": "remit",
            "client_encoding": "utf8",
            "connect_timeout": str(max(2, round(self.seconds))),
            "options": _settings(self.seconds),
        }
        if database is not None:
            parameters["dbname"] = database
        try:
            password = self.password()
        except ConfigError as error:
            raise NotMintedError(str(error)) from error
        try:
            connection = await psycopg.AsyncConnection.connect(
                make_conninfo(**parameters), password=password, autocommit=True
            )
        except psycopg.Error as error:
            raise NotMintedError(  # for nothing was asked of it yet
                f"the database server at `{self.address.host}:{self.address.port}` "
                f"cannot be used as `{self.user}`: {_why_not_connected(error)}"
            ) from error
        if self.greet is not None:
            greet, self.greet = self.greet, None
            async with _closed_on_failure(connection):
                await greet(connection)
        return connection

    async def close(self) -> None:
        """Let go of every connection."""
        while self._idle:
            await self._idle.pop().close()


def _quiet(connection: Connection) -> bool:
    """Nothing has come on a connection in no use: a session's end is there to be read, unasked for."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


async def rows_of(connection: Connection, statements: sql.Composed) -> list[list[TupleRow]]:
    """Run statements in one round trip, and return the rows of each that has any to give.

    The server stops at the first that fails. What stands between BEGIN and COMMIT is a transaction,
    and so is what stands behind it.

    Raises:
        psycopg.Error: one of them failed; a transaction it stands in is open still.
    """
    cursor = await connection.execute(statements)
    rows = []
    while True:
        if cursor.description is not None:
            rows.append(await cursor.fetchall())
        if not cursor.nextset():
            return rows


@contextlib.asynccontextmanager
async def _closed_on_failure(connection: Connection) -> AsyncIterator[None]:
    """Close a connection that nobody else holds yet, where its first use fails or is cancelled."""
    try:
        yield
    except BaseException:
        await connection.close()
        raise


def _settings(seconds: float) -> str:
    milliseconds = max(1, round(seconds * 1000))
    return (
        f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
        f"-c idle_in_transaction_session_timeout={2 * milliseconds} -c search_path=pg_catalog"
    )


def said(error: psycopg.Error) -> str:
    """Return what of an error may be said: its SQLSTATE and the name of that, never its text.

    Its text may quote a statement. Agents read this: the driver's own names tell them nothing.
    """
    if error.sqlstate is None:
        return "it went away, or does not answer"
    words = _WORDS.sub(" ", type(error).__name__).lower()
    return f"{words} ({error.sqlstate})"


_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


_REASONS = (
    "Connection refused",
    "password authentication failed",
    "no pg_hba.conf entry",
    "does not exist",
    "is not permitted to log in",
    "too many connections",
    "too many clients",
    "the database system is starting up",
    "the database system is shutting down",
    "certificate verify failed",
    "server does not support SSL",
    "could not translate host name",
    "Name or service not known",
    "timeout expired",
)


def _why_not_connected(error: psycopg.Error) -> str:
    """Say why nobody was let in, in the server's words where they are known: no others are told."""
    text = str(error)
    return next((each for each in _REASONS if each in text), said(error))
