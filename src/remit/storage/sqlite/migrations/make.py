"""Write ``versions/0001_initial.py`` from the adapters' tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations.ops import UpgradeOps
from sqlalchemy import create_engine

from remit.storage.sqlite.metadata import METADATA
from remit.storage.sqlite.migrations import FOLDER, load_adapters

INITIAL = FOLDER / "versions" / "0001_initial.py"
_HEAD = '''"""The tables that the first release starts with. Written by ``migrations.make``."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
'''


def render() -> str:
    """Return the step that creates every adapter's tables, as source."""
    load_adapters()
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        script = produce_migrations(MigrationContext.configure(connection), METADATA)
    engine.dispose()
    if not isinstance(script.upgrade_ops, UpgradeOps):
        raise TypeError("alembic has changed: one step has several sets of operations")
    code = render_python_code(script.upgrade_ops)
    body = [line for line in code.splitlines() if not line.lstrip().startswith("#")]
    return _HEAD + "\n".join(f"    {line.strip()}" if line.strip() else "" for line in body) + "\n"


def main() -> None:
    """Write the file and format it."""
    INITIAL.write_text(render())
    ruff = Path(sys.executable).with_name("ruff")
    subprocess.run([ruff, "format", "--quiet", INITIAL], check=True)  # noqa: S603 - our own tool


if __name__ == "__main__":
    main()
