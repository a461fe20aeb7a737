"""One process at a time: a lock file that says who holds it."""

from __future__ import annotations

import fcntl
import os
from datetime import datetime
from pathlib import Path

from remit.model.errors import ConfigError

_MAX_HOLDER_BYTES = 200


class StateLock:
    """An flock on a file. The kernel drops it when its holder dies, however it dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path, *, at: datetime) -> StateLock:
        """Take the lock, or say who has it.

        Raises:
            ConfigError: it is held, or its file cannot be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot open the lock `{path}`: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, _MAX_HOLDER_BYTES).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise ConfigError(
                f"the state `{path.parent}` is in use by {holder or 'another process'}: "
                "stop that one first, or choose another `[authority] state`"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} since {at.isoformat()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let go. Releasing twice is fine."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(path: Path) -> bool:
    """Say whether a process holds the lock in this file; make and change nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
