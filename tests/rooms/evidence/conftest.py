"""A state folder for each test."""

from pathlib import Path

import pytest
from evidence_house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "state")
