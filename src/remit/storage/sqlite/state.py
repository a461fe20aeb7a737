"""The check of the working tables at a start: against their seal, by the key beside the file."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from remit.evidence.keys import read_or_create
from remit.model.errors import ConfigError, ProofError
from remit.storage.sqlite.engine import driver_of, open_reader, open_writer
from remit.storage.sqlite.migrations import load_adapters, require_layout
from remit.storage.sqlite.seals import KEY_BYTES, Seals

_SHOWN = 5


def key_path(path: Path) -> Path:
    """Return where the key of the state file at ``path`` lies."""
    return path.parent / "keys" / "state.key"


def open_seals(path: Path, *, accept: bool) -> tuple[Seals, tuple[str, ...]]:
    """Check the working tables of the file at ``path``; return their seals, and what was accepted.

    What was accepted comes back at every start until a record says so: a start may end before that.

    Raises:
        ProofError: what stands in them is not what was sealed, and is not to be accepted.
        ConfigError: the key cannot be read or made, or the file not be read.
    """
    load_adapters()
    seals = Seals(read_or_create(key_path(path), KEY_BYTES, secrets.token_bytes))
    engine = open_writer(path)
    try:
        with engine.begin() as connection:
            driver = driver_of(connection)
            faults = tuple(seals.faults(driver))
            if faults and not accept:
                raise ProofError(refusal(faults))
            if faults:
                seals.seal_all(driver, (*_accepted(seals, driver), *faults))
            accepted = _accepted(seals, driver)
            if faults:
                seals.forget()
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise ConfigError(
            f"`{path}` is not a usable state file: restore a backup (docs/operate/keys-and-backup.md),"
            " or begin anew in another `state` folder"
        ) from error
    finally:
        engine.dispose()
    return seals, accepted


def _accepted(seals: Seals, driver: sqlite3.Connection) -> tuple[str, ...]:
    try:
        sealed = seals.read(driver)
    except ProofError:  # which is one of the faults
        return ()
    return () if sealed is None else sealed.accepted


def look(path: Path) -> tuple[str, ...]:
    """Return what is wrong with the working tables of a file that nobody has open; change nothing.

    Raises:
        ConfigError: the key or the file cannot be read.
    """
    if not path.is_file() or not key_path(path).is_file():
        return ()
    load_adapters()
    seals = Seals(read_or_create(key_path(path), KEY_BYTES, secrets.token_bytes))
    engine = open_reader(path)
    try:
        with engine.connect() as connection, contextlib.closing(connection):
            require_layout(connection, path)
            return tuple(seals.faults(driver_of(connection)))
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise ConfigError(f"`{path}` cannot be read") from error
    finally:
        engine.dispose()


def refusal(faults: tuple[str, ...]) -> str:
    """Return why Remit does not start on these, and the ways out."""
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return (
        f"the state was changed while remit was stopped: {'; '.join(faults[:_SHOWN])}{more}. "
        "Restore a backup of the whole state folder; or, if you know of the change and stand by "
        "it, start once with `remit up --accept-state`, which leaves a record"
    )
