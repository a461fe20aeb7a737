"""A lease book for each test, and a target that answers as it says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from lease_book import Book
from scripted_target import Script, scripted


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async with scripted() as made:
        yield made
