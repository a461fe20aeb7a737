"""How the SQLite file is opened: permissions, pragmas, explicit transactions."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, event

from remit.model.errors import ConfigError

CHECKPOINT_PAGES = 4000
"""The write-ahead log is folded into the file at every 4,000 pages (16 MB)."""
BUSY_SECONDS = 5.0
"""How long to wait for an outsider (a backup) that holds the file."""


def prepare_files(path: Path) -> None:
    """Create the state folder (0700) and the state file (0600), or tighten them.

    Raises:
        ConfigError: it cannot be done, or the folder is one that others may write to.
    """
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
        if mode & stat.S_ISVTX:
            raise ConfigError(f"the state folder `{folder}` is shared: give Remit its own")
        if stat.S_IMODE(mode) & 0o077:
            folder.chmod(0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot use the state file `{path}`: {error.strerror}") from error


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def open_writer(path: Path) -> Engine:
    """Return the engine for the one writer: every transaction takes the write lock at once."""
    engine = _engine(path, "PRAGMA secure_delete=ON")
    event.listen(engine, "begin", _begin)
    return engine


def open_reader(path: Path) -> Engine:
    """Return the engine for reads; it refuses to write rows."""
    return _engine(path, "PRAGMA query_only=ON")


def driver_of(connection: Connection) -> sqlite3.Connection:
    """Return the sqlite3 connection below a connection of these engines."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError("the connection is not one to SQLite")
    return driver


def _engine(path: Path, *pragmas: str) -> Engine:
    def connect() -> sqlite3.Connection:
        # The file was created by prepare_files: rw never creates one with other permissions.
        driver = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        for pragma in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}",
            "PRAGMA foreign_keys=ON",
            "PRAGMA trusted_schema=OFF",
            *pragmas,
        ):
            driver.execute(pragma)
        return driver

    return create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool)
