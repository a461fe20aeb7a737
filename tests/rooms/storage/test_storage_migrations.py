"""The tables that the steps build are the tables that the adapters declare."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text

from remit.model.errors import ConfigError
from remit.storage.sqlite.engine import open_reader, prepare_files
from remit.storage.sqlite.metadata import METADATA
from remit.storage.sqlite.migrations import load_adapters, migrate
from remit.storage.sqlite.seals import KEY_BYTES
from remit.storage.sqlite.state import key_path, look


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "remit.db"
    prepare_files(path)
    return path


def schema(engine: Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT type, name FROM sqlite_master WHERE name NOT LIKE '%alembic%'")
        )
        return sorted(tuple(row) for row in rows)


def test_the_steps_build_what_every_adapter_declares(path: Path):
    migrate(path)
    load_adapters()
    engine = open_reader(path)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    declared = create_engine("sqlite://")
    METADATA.create_all(declared)
    assert schema(engine) == schema(declared)
    declared.dispose()
    engine.dispose()


def test_migrating_twice_changes_nothing(path: Path):
    migrate(path)
    before = path.read_bytes()
    migrate(path)
    assert path.read_bytes() == before


def test_what_is_no_state_file_is_refused_and_the_message_says_what_to_do(path: Path):
    path.write_bytes(b"this is no database, and never was one. " * 200)
    with pytest.raises(ConfigError, match="not a usable state file: restore a backup"):
        migrate(path)


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("DROP TABLE approvals", "approvals"),
        ("ALTER TABLE leases DROP COLUMN tag", "leases"),
        ("ALTER TABLE tasks ADD COLUMN more TEXT", "tasks"),
    ],
)
def test_a_file_of_an_older_layout_is_refused_and_the_message_says_what_to_do(
    path: Path, change: str, table: str
):
    migrate(path)
    connection = sqlite3.connect(path)
    connection.execute(change)
    connection.commit()
    connection.close()
    before = path.read_bytes()
    for use in (migrate, look):
        key_path(path).parent.mkdir(exist_ok=True)
        key_path(path).write_bytes(bytes(KEY_BYTES))
        key_path(path).chmod(0o600)
        with pytest.raises(ConfigError, match=f"`{table}`.*begin anew in another") as refused:
            use(path)
        assert "remit evidence export" in str(refused.value)
    assert path.read_bytes() == before


def test_a_file_of_a_newer_version_is_refused(path: Path):
    migrate(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(ConfigError, match="newer version of remit: run that version"):
        migrate(path)
