"""A PIN comes from a file that nobody else may read, or from a variable, and is shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remit.keystore.pin import read_pin
from remit.keystore.uri import PinSource
from remit.model.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pin"
    path.write_bytes(b"s3cr3t\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("data", [b"s3cr3t", b"s3cr3t\n", b"s3cr3t\r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_the_line_of_a_file_is_the_pin(file: Path, data: bytes, mode: int):
    file.write_bytes(data)
    file.chmod(mode)
    assert read_pin(PinSource(file=file)) == "s3cr3t"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_may_read_is_refused(file: Path, mode: int):
    file.chmod(mode)
    refused(PinSource(file=file), "others may read")


@pytest.mark.parametrize("data", [b"", b"\n", b"s3cr3t" * 50, b"s3cr3t\xff"])
def test_what_is_no_pin_is_refused(file: Path, data: bytes):
    file.write_bytes(data)
    refused(PinSource(file=file), "PIN in")


def test_a_link_a_folder_and_a_pipe_are_refused(file: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(file)
    refused(PinSource(file=tmp_path / "link"), "cannot be read")
    refused(PinSource(file=tmp_path), "cannot be read")
    os.mkfifo(tmp_path / "pipe", 0o600)
    refused(PinSource(file=tmp_path / "pipe"), "no file")
    refused(PinSource(file=tmp_path / "none"), "cannot be read")


def test_a_variable_holds_the_pin_or_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REMIT_TEST_PIN", "s3cr3t")
    assert read_pin(PinSource(variable="REMIT_TEST_PIN")) == "s3cr3t"
    monkeypatch.delenv("REMIT_TEST_PIN")
    refused(PinSource(variable="REMIT_TEST_PIN"), "there is no PIN")


def refused(source: PinSource, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as found:
        read_pin(source)
    assert "s3cr3t" not in str(found.value)
    assert "s3cr3t" not in repr(found.value.__cause__)
