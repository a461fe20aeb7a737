"""The steps that bring a state file to the tables that this version needs (Alembic).

``python -m remit.storage.sqlite.migrations.make`` writes the initial step again from the adapters'
tables. It does so until the first release; from then on every change is a step of its own.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import SQLAlchemyError

import remit.storage.sqlite as adapters
from remit.model.errors import ConfigError
from remit.storage.sqlite.engine import open_writer
from remit.storage.sqlite.metadata import METADATA

FOLDER = Path(__file__).parent


def load_adapters() -> None:
    """Import every adapter, so that METADATA holds all tables."""
    for module in pkgutil.iter_modules(adapters.__path__, f"{adapters.__name__}."):
        if not module.ispkg:
            importlib.import_module(module.name)


def require_layout(connection: Connection, path: Path) -> None:
    """Refuse a file whose tables are not those of this version, although its step says so.

    Until the first release the initial step itself is changed, so an older file can bear its number.

    Raises:
        ConfigError: a table or a column is missing, or is there and unknown.
    """
    load_adapters()
    there = inspect(connection)
    names = set(there.get_table_names())
    for table in METADATA.sorted_tables:
        columns = (
            {column["name"] for column in there.get_columns(table.name)}
            if table.name in names
            else set()
        )
        if columns != {column.name for column in table.columns}:
            raise ConfigError(
                f"`{path}` was laid out by another version of remit (its table `{table.name}` is "
                "not this version's), and there is no step from that one: run the version that wrote "
                "it to export what you need (`remit evidence export`), then begin anew in another "
                "`[authority] state` folder, and keep this one"
            )


def migrate(path: Path) -> None:
    """Bring the file at ``path`` up to date, in one transaction.

    Raises:
        ConfigError: it is not a state file, or one that another version wrote which there is no step
            from.
    """
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    head = ScriptDirectory.from_config(config).get_current_head()
    engine = open_writer(path)
    try:
        with engine.begin() as connection:
            if MigrationContext.configure(connection).get_current_revision() == head:
                require_layout(connection, path)
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigError(
            f"`{path}` was written by a newer version of remit: run that version, or a backup of the "
            "state folder from before it (docs/operate/keys-and-backup.md)"
        ) from error
    except SQLAlchemyError as error:
        raise ConfigError(
            f"`{path}` is not a usable state file: restore a backup (docs/operate/keys-and-backup.md),"
            " or begin anew in another `state` folder"
        ) from error
    finally:
        engine.dispose()
