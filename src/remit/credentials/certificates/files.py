"""Files of a certificate authority: its key, its lists, and the keys it hands out in a folder."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from remit.model.errors import BrokerError, ConfigError

_HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")
_LARGEST = 1 << 20


def write_whole(path: Path, data: bytes, *, mode: int) -> None:
    """Put ``data`` at ``path``, durably; a reader sees the old file or the new one.

    Raises:
        OSError: the folder is not there or not writable, or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(beside, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask: a list has to be readable
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def broker_folder(state: Path) -> Path:
    """Return the folder of the state that brokers keep files in, made where it is missing.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = state / "brokers"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"`{folder}` cannot be made: look at the state folder") from error
    return folder


def read_private(path: Path, where: str) -> bytes:
    """Return a file that only its owner may read.

    Raises:
        ConfigError: it is missing, too large, or readable by others; ``where`` names the setting.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{where}: `{path}` cannot be read") from error
    if not stat.S_ISREG(status.st_mode) or len(data) > _LARGEST:
        raise ConfigError(f"{where}: `{path}` is not a key file")
    if status.st_mode & 0o077:
        raise ConfigError(
            f"{where}: `{path}` has mode {stat.S_IMODE(status.st_mode):04o}: others may have read "
            "it; make a new key, and keep it at 0600"
        )
    return data


def kept_or_made(path: Path, make: Callable[[], bytes], where: str) -> bytes:
    """Return the private file at ``path``, made on first use.

    Raises:
        ConfigError: it cannot be read or written, or others may read it.
    """
    if not path.exists():
        try:
            write_whole(path, make(), mode=0o600)
        except OSError as error:
            raise ConfigError(f"{where}: `{path}` cannot be written") from error
    return read_private(path, where)


def hand_out(folder: Path, handle: str, files: Mapping[str, str]) -> Mapping[str, Path]:
    """Write a lease's files into a folder of its own, for its owner alone; return their paths.

    Raises:
        BrokerError: the disk failed, and nothing is left.
    """
    own = _own(folder, handle)
    try:
        own.mkdir(mode=0o700)
        for name, text in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(own / name, flags, 0o600), "w") as file:
                file.write(text)
    except OSError as error:
        with contextlib.suppress(BrokerError):
            take_back(folder, handle)
        raise BrokerError(f"`{folder}` cannot be written: look at `key_folder`") from error
    return {name: own / name for name in files}


def take_back(folder: Path, handle: str) -> None:
    """Remove a lease's files; absent is not an error.

    Raises:
        BrokerError: they cannot be removed.
    """
    own = _own(folder, handle)
    try:
        for each in own.iterdir():
            each.unlink(missing_ok=True)
        own.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BrokerError(f"the files in `{own}` cannot be removed: remove them") from error


def _own(folder: Path, handle: str) -> Path:
    if not _HANDLE.match(handle):
        raise BrokerError("the lease's handle is no name for a folder")
    return folder / handle
