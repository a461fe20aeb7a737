"""Reads a token's PIN from where the configuration says it lies. It goes nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from remit.keystore.uri import PinSource
from remit.model.errors import ConfigError

_LONGEST = 256
_OTHERS = 0o077


def read_pin(source: PinSource) -> str:
    """Return the PIN, without the newline that ends its file.

    Raises:
        ConfigError: it is missing, empty or too long, or others may read its file.
    """
    if source.file is not None:
        data = _from_file(source.file, source.words)
    else:
        data = os.environb.get((source.variable or "").encode("ascii"), b"")
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(data) <= _LONGEST:
        raise ConfigError(f"there is no PIN in {source.words}: put it there, 1 to {_LONGEST} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        # Without the cause, which holds the bytes.
        raise ConfigError(f"the PIN in {source.words} is not UTF-8") from None


def _from_file(path: Path, words: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            data = file.read(_LONGEST + 3)
    except OSError as error:
        raise ConfigError(f"the PIN in {words} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{words} is no file that a PIN is read from")
    if status.st_mode & _OTHERS:
        raise ConfigError(f"others may read {words}: change the PIN, and set its mode to 0600")
    if status.st_uid not in {0, os.geteuid()}:
        raise ConfigError(f"{words} belongs to another user")
    return data
