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
from sqlalchemy.exc import SQLAlchemyError

import remit.storage.sqlite as adapters
from remit.model.errors import ConfigError
from remit.storage.sqlite.engine import open_writer

FOLDER = Path(__file__).parent


def load_adapters() -> None:
    """Import every adapter, so that METADATA holds all tables."""
    for module in pkgutil.iter_modules(adapters.__path__, f"{adapters.__name__}."):
        if not module.ispkg:
            importlib.import_module(module.name)


def migrate(path: Path) -> None:
    """Bring the file at ``path`` up to date, in one transaction.

    Raises:
        ConfigError: it is not a state file, or one that a newer version wrote.
    """
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    head = ScriptDirectory.from_config(config).get_current_head()
    engine = open_writer(path)
    try:
        with engine.begin() as connection:
            if MigrationContext.configure(connection).get_current_revision() == head:
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigError(f"`{path}` was written by a newer version of remit") from error
    except SQLAlchemyError as error:
        raise ConfigError(
            f"`{path}` is not a usable state file: restore a backup (docs/operate/keys-and-backup.md),"
            " or begin anew in another `state` folder"
        ) from error
    finally:
        engine.dispose()
