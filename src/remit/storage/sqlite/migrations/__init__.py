"""The steps that bring a state file to the tables that this version needs."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

import remit.storage.sqlite as adapters
from remit.model.errors import ConfigError
from remit.storage.sqlite.engine import open_writer
from remit.storage.sqlite.metadata import METADATA


def load_adapters() -> None:
    """Import every adapter, so that METADATA holds all tables."""
    for module in pkgutil.iter_modules(adapters.__path__, adapters.__name__ + "."):
        if not module.ispkg:
            importlib.import_module(module.name)


def migrate(path: Path) -> None:
    """Bring the file at ``path`` up to date.

    Raises:
        ConfigError: it is not a state file, or one from a newer version.
    """
    load_adapters()
    engine = open_writer(path)
    try:
        with engine.begin() as connection:
            METADATA.create_all(connection)
    except SQLAlchemyError as error:
        raise ConfigError(f"`{path}` is not a usable state file") from error
    finally:
        engine.dispose()
