"""A provider's key in memory holds what one in a token or at AWS has to hold."""

from __future__ import annotations

import pytest

from remit.keystore.ports import Algorithm
from remit.testing.key_suite import KeyProviderSuite, Shelf
from remit.testing.keys import MemoryKey


class Drawer:
    """A shelf in memory."""

    algorithms = tuple(Algorithm)
    secrets = ()

    def __init__(self) -> None:
        self.keys: dict[str, MemoryKey] = {}

    def key(self, name: str, algorithm: Algorithm) -> MemoryKey:
        return self.keys.setdefault(name, MemoryKey(algorithm, missing=True))

    def take_away(self) -> None:
        for key in self.keys.values():
            key.away = True

    def put_back(self) -> None:
        for key in self.keys.values():
            key.away = False


class TestMemory(KeyProviderSuite):
    @pytest.fixture
    def shelf(self) -> Shelf:
        return Drawer()
