"""A lease book for each test."""

from __future__ import annotations

import pytest
from lease_book import Book


@pytest.fixture
def book() -> Book:
    return Book()
