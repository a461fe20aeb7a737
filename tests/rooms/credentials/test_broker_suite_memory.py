"""The fake target passes the suite that every broker has to pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from remit.model.lease import Credential
from remit.testing.broker_suite import BrokerSuite
from remit.testing.credentials import MemoryTarget


class _Memory:
    grant: Mapping[str, Any] = {"rows": 1}
    installation = "remit-test"
    names_are_ours = True

    def __init__(self) -> None:
        self.broker = MemoryTarget()

    async def accepts(self, credential: Credential) -> bool:
        return self.broker.accepts(credential.values)

    async def down(self) -> None:
        self.broker.fail_issue = self.broker.fail_revoke = True

    async def up(self) -> None:
        self.broker.fail_issue = self.broker.fail_revoke = False

    async def expire(self, credential: Credential) -> None:
        raise AssertionError("it takes back at once")


class TestMemory(BrokerSuite):
    @pytest.fixture
    def target(self) -> _Memory:
        return _Memory()
