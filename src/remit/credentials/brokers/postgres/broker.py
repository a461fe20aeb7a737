"""Broker `postgres`: a login role a lease, made with its privileges in one transaction, and dropped.

The role's name is the lease's handle, so that a crash loses nothing: whatever was made is found by
name. A revocation takes the login away first, so that no session begins between the end of the
others and the drop; then it ends sessions, drops what the role owns, drops the role, and asks the
catalogue. Mints and revocations of one database wait for each other (an advisory lock): two
grants on one table at once would fail, and a revocation must not overtake a mint's commit.

What can travel together does. A mint makes its role while the lease's row is on its way to the disk,
and asks for nothing that lasts before that has arrived; its commit travels alone, for whether it was
asked for is what says if it may have happened. A revocation that finds nobody is two round trips.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import psycopg
import structlog
from psycopg import sql
from psycopg.conninfo import make_conninfo

from remit.credentials.brokers.postgres.admin import (
    Connection,
    Desk,
    rows_of,
    said,
)
from remit.credentials.brokers.postgres.disowning import (
    disowning,
    drop,
    held,
    look,
    shut,
    taking,
)
from remit.credentials.brokers.postgres.grants import (
    NAME_BYTES,
    read_grant,
    revocations,
)
from remit.credentials.brokers.postgres.making import Mint, begin, give
from remit.credentials.brokers.postgres.options import address, read_options
from remit.credentials.brokers.postgres.password import Passwords, our_own
from remit.credentials.brokers.postgres.survey import powerful, survey
from remit.credentials.port import Census, Finding, Order, Revocation, Surroundings, Traits
from remit.credentials.tables import secret_source
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease

log = structlog.get_logger()

_ATTEMPTS = 4
_AGAIN = {"XX000", "40P01", "40001", "42704"}
"""A catalogue row changed under us, a deadlock, or somebody else dropped the role meanwhile."""

_CUT_SHORT = {"08", "57"}
"""The classes of SQLSTATE that say the session was ended, not that the commit failed."""

_NOBODYS = "SELECT 1 FROM pg_stat_activity WHERE usesysid IS NOT NULL AND usename IS NULL LIMIT 1"

_T = TypeVar("_T")


class PostgresBroker:
    """One database of one server."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        """Read the options; the server is not contacted.

        Raises:
            ConfigError: an option is unknown, missing or makes no sense.
        """
        try:
            self._options = read_options(options)
            self._address = address(self._options, surroundings.path)
            password = secret_source(
                "password",
                self._options.password,
                self._options.password_file,
                surroundings.path,
            )
        except ConfigError as error:
            raise ConfigError(f"`[broker.{name}]`: {error}") from error
        self._name = name
        self._prefix = f"{surroundings.installation}-"
        self._clock = surroundings.clock
        self._passwords = Passwords(self._options.password_rounds)
        self._made: dict[str, _Made] = {}
        desk = functools.partial(
            Desk,
            address=self._address,
            user=self._options.user,
            password=password,
            seconds=self._options.timeout_seconds,
            limit=self._options.connections,
        )
        # However long mints wait, for the disk or for the server, no revocation waits for them.
        self._mints = desk(greet=self._greet)
        self._desk = desk()

    @property
    def traits(self) -> Traits:
        """It takes back at once, can be asked, and lists what is ours."""
        return Traits(revocation="immediate", confirms=True, lists=True, prepares=True)

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a grant.

        Raises:
            ConfigError: it names the key.
        """
        read_grant(grant)

    async def issue(self, order: Order) -> Credential:
        """Make the role and give it what the grant says, all or nothing.

        Raises:
            NotMintedError: the transaction certainly did not commit.
            BrokerError: whether it committed is not known.
        """
        try:
            grant = read_grant(order.grant)
        except ConfigError as error:
            raise NotMintedError(f"the grant cannot be given: {error}") from error
        role = self._ours(order.lease)
        application = f"remit/{order.lease.task}"[:NAME_BYTES]
        password = our_own() if order.ours else await self._passwords.take()
        if not order.ours:
            self._passwords.prepare()  # while the server goes through the rounds of this one
        minting = Mint(
            role=role,
            password=password,
            application=application,
            grant=grant,
            expires_at=order.lease.expires_at,
        )
        durable = asyncio.create_task(order.durable())
        durable.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            oid = await self._repeated(lambda: self._mint(minting, durable))
        finally:
            durable.cancel()
        self._made[role] = _Made(oid, disowning(role, revocations(role, grant)))
        return self._credential(order, minting)

    async def _mint(self, mint: Mint, durable: asyncio.Task[None]) -> int:
        """Make the role, and commit once the lease is durable; return the role's oid."""
        committing = False
        try:
            # A connection that anything went wrong on is closed, which ends its transaction.
            async with contextlib.AsyncExitStack() as lent:
                async with self._bounded("begin to make the role", NotMintedError):
                    connection = await lent.enter_async_context(self._mints.connection())
                    await begin(connection, mint)
                await durable  # no lock is held yet that a revocation waits for
                async with self._bounded("mint"):
                    oid = await give(connection, mint, self._options.user)
                    committing = True
                    await connection.execute("COMMIT")
                return oid
        except psycopg.Error as error:
            if error.sqlstate in _AGAIN and not committing:
                raise
            if committing and (error.sqlstate is None or error.sqlstate[:2] in _CUT_SHORT):
                raise BrokerError(
                    f"the database did not say whether it made the role: {said(error)}"
                ) from error
            raise NotMintedError(f"the database made no role: {said(error)}") from error

    def _credential(self, order: Order, mint: Mint) -> Credential:
        where = self._address
        parameters = where.parameters()
        place = f"{_in_url(where.host)}:{where.port}/{quote(where.database, safe='')}"
        shown = {k: v for k, v in parameters.items() if k in {"sslmode", "sslrootcert"}}
        query = "&".join(
            f"{key}={quote(value, safe='')}"
            for key, value in ({"application_name": mint.application} | shown).items()
        )
        return Credential(
            values={
                "username": mint.role,
                "password": mint.password.text,
                "host": where.host,
                "port": str(where.port),
                "database": where.database,
                "dsn": make_conninfo(
                    **parameters,
                    user=mint.role,
                    password=mint.password.text,
                    application_name=mint.application,
                ),
                "url": f"postgresql://{mint.role}:{mint.password.text}@{place}?{query}",
            },
            secrets=(mint.password.text,),
            memo=mint.role,
            expires_at=order.lease.expires_at,
        )

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Close the role, end its sessions, drop what it owns and the role, and ask.

        Raises:
            BrokerError: the server failed, or something keeps the role from being dropped.
        """
        del keep
        role = self._ours(lease)
        async with self._bounded("revoke"):
            return await self._repeated(lambda: self._revoke(role))

    async def _revoke(self, role: str) -> Revocation:
        async with self._desk.connection() as connection:
            made = self._made.pop(role, None)
            try:
                ended = await shut(connection, role)
            except psycopg.errors.UndefinedObject:
                await connection.rollback()
                if await _one(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)):
                    raise  # to be tried again
                return await self._gone(connection)
            if made is not None and not ended and self._options.owned == "drop":
                with contextlib.suppress(psycopg.Error):
                    if await drop(connection, role, made.oid, made.taking):
                        return Revocation(confirmed=True)
                await connection.rollback()  # it was given, or came to own, more than this made
            found = await look(connection, role)
            while found.ended:
                found = await look(connection, role)
            for database in found.elsewhere:
                async with self._desk.visiting(database) as other:
                    *_, holds = await rows_of(other, held(role))
                    await other.execute(await self._disowning(other, role, holds))
            taken = await self._disowning(connection, role, found.held)
            if not await drop(connection, role, found.oid, taken):
                raise BrokerError(f"role `{role}` is dropped, but a session of it is not over")
            return Revocation(confirmed=True)

    async def _gone(self, connection: Connection) -> Revocation:
        """Confirm a role that is not there, unless a session outlived a role that was dropped.

        Such a session names nobody any more: whose it was cannot be told.
        """
        if await _one(connection, _NOBODYS, ()):
            return Revocation(
                confirmed=False,
                detail="the role is gone, and a session of some role that is gone is not over",
            )
        return Revocation(confirmed=True)

    async def _disowning(
        self, connection: Connection, role: str, holds: Sequence[tuple[Any, ...]]
    ) -> sql.Composed:
        """What drops or hands on what the role owns here, and takes its privileges away."""
        taken, heir = taking(role, holds), self._options.reassign_to
        if self._options.owned != "reassign" or heir is None:
            return taken
        if await powerful(connection, [heir]):
            raise BrokerError(
                f"`reassign_to`: `{heir}` has powers that a function of the agent's would run "
                "with; name a role that has none"
            )
        return sql.SQL("REASSIGN OWNED BY {} TO {}; {}").format(
            sql.Identifier(role), sql.Identifier(heir), taken
        )

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Ask the catalogue for every role of ours, whoever made it.

        Raises:
            BrokerError: the server could not be asked.
        """
        del leases
        async with self._bounded("list roles"):
            return Census(alive=await self._repeated(self._roles), complete=True)

    async def _roles(self) -> frozenset[str]:
        async with self._desk.connection() as connection:
            asked = await connection.execute(
                "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (self._prefix,)
            )
            return frozenset(row[0] for row in await asked.fetchall())

    async def survey(self) -> Sequence[Finding]:
        """Ask the server for what widens every lease's role: in words, worst first.

        Raises:
            BrokerError: the server could not be asked.
        """
        async with self._bounded("look around"):
            return await self._repeated(self._survey)

    async def _survey(self) -> Sequence[Finding]:
        async with self._desk.connection() as connection:
            return await survey(connection)

    async def _greet(self, connection: Connection) -> None:
        with contextlib.suppress(psycopg.Error):
            for finding in await survey(connection):
                log.warning("the database gives more than was granted", finding=finding.said)

    async def close(self) -> None:
        """Let go of the server."""
        await self._passwords.close()
        await self._mints.close()
        await self._desk.close()

    def _ours(self, lease: Lease) -> str:
        """The lease's handle, if it can be a role of this installation's and nobody else's."""
        role = lease.handle
        if not role.startswith(self._prefix) or len(role.encode()) > NAME_BYTES:
            raise NotMintedError(f"`{role[:NAME_BYTES]}` is no name of this installation's leases")
        return role

    @contextlib.asynccontextmanager
    async def _bounded(
        self, what: str, kind: type[BrokerError] = BrokerError
    ) -> AsyncIterator[None]:
        seconds = self._options.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            maybe = "" if issubclass(kind, NotMintedError) else "; it may have all the same"
            raise kind(f"the database did not {what} within {seconds:g} s{maybe}") from error

    async def _repeated(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Try again what failed because somebody else changed the catalogue at the same time."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                return await attempt()
            except psycopg.Error as error:
                if error.sqlstate not in _AGAIN or not left:
                    raise BrokerError(f"the database failed: {said(error)}") from error
        raise AssertionError


@dataclass(frozen=True, slots=True)
class _Made:
    """A role that this run made: what is to be taken away again, were nobody to give it more."""

    oid: int
    taking: sql.Composed


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else quote(host, safe="")


async def _one(connection: Connection, query: Any, parameters: Sequence[Any]) -> Any:
    return await (await connection.execute(query, parameters)).fetchone()
