"""Key files of evidence: made once, mode 0600, never written again."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from remit.evidence.files import write_file
from remit.model.errors import ConfigError

_OTHERS = 0o077
_MAX_BYTES = 4096


def read_or_create(path: Path, size_bytes: int, randomness: Callable[[int], bytes]) -> bytes:
    """Return the raw key in ``path``, making it where there is none.

    Raises:
        ConfigError: it cannot be read or made, has another size, or others may read it.
    """
    key = _read(path, lambda: randomness(size_bytes))
    if len(key) != size_bytes:
        raise ConfigError(f"the key `{path}` has to be {size_bytes} bytes: restore it from a copy")
    return key


def read_or_create_text(path: Path, make: Callable[[], str]) -> str:
    """Return the key in ``path``, one line of ASCII, making it where there is none.

    Raises:
        ConfigError: it cannot be read or made, is not ASCII, or others may read it.
    """
    try:
        return _read(path, lambda: b"%s\n" % make().encode()).decode("ascii").rstrip("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the key `{path}` is damaged: restore it from a copy") from error


def _read(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the file's bytes; make it (0600, in a folder of 0700) where it is not there."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            key = make()
            write_file(path, key, mode=0o600)
            return key
        with os.fdopen(descriptor, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read(_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot use the key `{path}`: {error.strerror}") from error
    if mode & _OTHERS:
        raise ConfigError(f"others may read the key `{path}`: set its mode to 0600")
    return key
