"""The whole authority in process, for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from world import World, standing


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with standing(tmp_path) as made:
        yield made
