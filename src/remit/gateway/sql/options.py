"""What the operator says of an upstream that is a database: its tables, and how much it may answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remit.model.errors import ConfigError

MAX_NAME_BYTES = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlOptions:
    """The catalogue of a connection, and its bounds.

    ``tables`` names each table that may be touched, as ``schema.table``, with its columns in their
    order: a `*` becomes these. ``default_schema`` is where a table without one is looked for.

    Raises:
        ConfigError: a field makes no sense.
    """

    tables: Mapping[str, tuple[str, ...]]
    default_schema: str = "public"
    max_rows: int = 1_000
    max_bytes: int = 1_048_576
    statement_seconds: float = 30.0
    connect_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not self.tables:
            raise ConfigError("`sql.tables` is empty: name each table with its columns")
        for table, columns in self.tables.items():
            schema, _, name = table.partition(".")
            if not schema or not name:
                raise ConfigError(f"`sql.tables`: `{table}` is written as `schema.table`")
            if not columns or len(set(columns)) != len(columns):
                raise ConfigError(f"`sql.tables`: `{table}` wants its columns, each once")
            for each in (schema, name, *columns):
                if not each.isprintable() or not 0 < len(each.encode()) <= MAX_NAME_BYTES:
                    raise ConfigError(f"`sql.tables`: `{table}` holds what is no name")
        for key in ("max_rows", "max_bytes", "statement_seconds", "connect_seconds"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ConfigError(f"`sql.{key}` is a number above zero")
