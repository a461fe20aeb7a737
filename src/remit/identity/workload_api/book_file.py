"""The book of processes on disk, so that an agent stays one over a restart of the authority.

Pids mean nothing after another boot, or in another container: a book of either is empty.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from remit.identity.workload_api.proc import process
from remit.model.errors import ConfigError, UnavailableError

T = TypeVar("T")

FILE = "processes.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FIRST_PID = 1


def read(path: Path, kind: type[T]) -> list[T]:
    """Return what the book held when this machine's processes were last written down.

    Raises:
        ConfigError: it is damaged, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"the book of agents' processes `{path}` cannot be read") from error
    try:
        kept = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        boot = msgspec.json.decode(kept["boot"], type=str)
        held = msgspec.json.decode(kept["processes"], type=list[kind])  # type: ignore[valid-type]  # known at run time
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
        raise ConfigError(
            f"the book of agents' processes `{path}` is damaged: end every agent, then start "
            "`remit up --forget-agents`"
        ) from error
    return held if boot == _boot() else []


def write(path: Path, held: Sequence[object]) -> None:
    """Write the book over the last one; a boot ends it, so it need not outlive the machine's power.

    Raises:
        UnavailableError: it cannot be written; the last one stands.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode({"boot": _boot(), "processes": held}))
        temporary.replace(path)
    except OSError as error:
        raise UnavailableError(f"agents' processes cannot be written to `{path}`") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def forget(path: Path) -> None:
    """Remove the book: the owner says that nothing of any agent runs.

    Raises:
        ConfigError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"the book of agents' processes `{path}` cannot be removed") from error


def pids() -> Iterable[int]:
    """Return the pids of this moment."""
    return sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _boot() -> str:
    """Return a name for this boot and, in a container, for its first process."""
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        boot = "unknown"
    first = process(_FIRST_PID)
    return f"{boot}/{0 if first is None else first.start_time}"
