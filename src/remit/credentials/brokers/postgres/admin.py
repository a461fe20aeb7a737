"""The broker's own connections to PostgreSQL: few, kept, and given up when anything goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import os
import select
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from remit.model.errors import ConfigError, NotMintedError

Connection = psycopg.AsyncConnection[TupleRow]
_CHECKED = ("verify-ca", "verify-full")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[broker.NAME]`` of kind ``postgres``; docs/brokers/postgres.md says what each is for."""

    host: str
    database: str
    user: str
    password: str | None = None
    password_file: str | None = None
    port: int = 5432
    sslmode: str | None = None
    ca: str | None = None
    timeout_seconds: float = 5.0
    connections: int = 4
    owned: str = "drop"
    reassign_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server is and how the way there is secured; nothing of it is secret."""

    host: str
    port: int
    database: str
    sslmode: str
    ca: str | None = None

    def parameters(self) -> dict[str, str]:
        """Return libpq's parameters."""
        given = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.database,
            "sslmode": self.sslmode,
        }
        return given | ({"sslrootcert": self.ca} if self.ca else {})


def address(options: Options, path: Callable[[str], Path]) -> Address:
    """Return where to connect.

    Raises:
        ConfigError: the way to another machine would not be checked.
    """
    if not options.host or any(not c.isprintable() or c == "," for c in options.host):
        raise ConfigError("`host` is one name, address or folder of a socket")
    if not 1 <= options.port <= 65_535:  # noqa: PLR2004 - a TCP port
        raise ConfigError("`port` is 1 to 65535")
    here = _here(options.host)
    mode = options.sslmode or ("prefer" if here else "verify-full")
    known = ("disable", "prefer", "require", *_CHECKED)
    if mode not in known:
        raise ConfigError(f"`sslmode` is one of {', '.join(known)}, not `{mode[:20]}`")
    if not here and mode not in _CHECKED:
        raise ConfigError(
            f'`sslmode = "{mode}"` would give the password to whoever answers for '
            f"`{options.host}`: use verify-full, with `ca`"
        )
    return Address(
        host=options.host,
        port=options.port,
        database=options.database,
        sslmode=mode,
        ca=str(path(options.ca)) if options.ca else None,
    )


def _here(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def password_source(options: Options, path: Callable[[str], Path]) -> Callable[[], str]:
    """Return what reads the admin account's password anew each time, so that it can be rotated.

    Raises:
        ConfigError: none or two are named, it stands in the configuration, or it cannot be read.
    """
    if (options.password is None) == (options.password_file is None):
        raise ConfigError('name either `password_file` or `password = "env:NAME"`')
    if options.password_file is not None:
        read = functools.partial(_from_file, path(options.password_file))
    else:
        variable = (options.password or "").removeprefix("env:")
        if not variable or variable == options.password:
            raise ConfigError(
                '`password` must not stand in the configuration: say "env:NAME", or use '
                "`password_file`"
            )
        read = functools.partial(_from_environment, variable)
    read()
    return read


def _from_file(file: Path) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="utf-8") as opened:
            if os.fstat(descriptor).st_mode & 0o077:
                raise ConfigError(f"`password_file`: others can read `{file}`: chmod 600 it")
            text = opened.read(4096).strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`password_file`: `{file}` cannot be read") from error
    if not text or "\x00" in text:
        raise ConfigError(f"`password_file`: `{file}` holds no password")
    return text


def _from_environment(variable: str) -> str:
    text = os.environ.get(variable, "")
    if not text:
        raise ConfigError(f"`password`: the environment has no `{variable}`")
    return text


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
                f"cannot be used as `{self.user}`: {said(error)}"
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
    """Return what of an error may be said: its kind and SQLSTATE, for its text may quote a statement."""
    return f"{type(error).__name__} ({error.sqlstate})" if error.sqlstate else type(error).__name__
