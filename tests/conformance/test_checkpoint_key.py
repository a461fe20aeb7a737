"""The log's key in a file and one that is kept elsewhere hold the same."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from remit.evidence.ports import CheckpointKey
from remit.evidence.signer import FileKey
from remit.keystore.kept import KeptKey
from remit.keystore.ports import Algorithm
from remit.testing.key_suite import CheckpointKeySuite
from remit.testing.keys import MemoryKey


class TestFileKey(CheckpointKeySuite):
    @pytest.fixture
    def key(self, tmp_path: Path) -> CheckpointKey:
        return FileKey.open(tmp_path / "log.key", "corp.example/log", secrets.token_bytes)


class TestKeptKey(CheckpointKeySuite):
    @pytest.fixture
    def key(self) -> CheckpointKey:
        return KeptKey.open(MemoryKey(), Algorithm.ED25519, "the log's key")
