"""Reading processes from ``/proc`` without being fooled by one that is replaced meanwhile.

A process is named by its pid *and* its start time. The start time is in clock ticks since boot,
as field 22 of ``/proc/PID/stat`` has it (proc_pid_stat(5)).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from remit.model.errors import UnidentifiedError

_PROC = Path("/proc")
_MAX_ANCESTORS = 512
_TRIES = 4
_ZOMBIE = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class Process:
    """One live process: ``start_time`` in clock ticks since boot, ``parent`` a pid."""

    pid: int
    parent: int
    start_time: int


def process(pid: int, *, dead: bool = False) -> Process | None:
    """Return what runs under ``pid`` now, or None.

    A zombie has exited, and counts as nothing unless ``dead`` is true.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The second field is the command in brackets, and may itself hold brackets and spaces.
    fields = text[text.rfind(b")") + 2 :].split()
    if not dead and fields[0].decode() in _ZOMBIE:
        return None
    return Process(pid, int(fields[1]), int(fields[19]))


def lineage(pid: int) -> tuple[Process, ...]:
    """Return ``pid`` and its live ancestors, nearest first; empty when it has gone.

    The line is read until two readings agree, so that every link held at one moment: a parent
    that dies gives its children another parent, and a reused pid has another start time.

    Raises:
        UnidentifiedError: the line does not reach the first process, or does not hold still. An
            agent could make it so: whoever it is, its ancestors are not known.
    """
    before = _read_lineage(pid)
    for _ in range(_TRIES):
        after = _read_lineage(pid)
        if after == before:
            if after and after[-1].parent != 0:
                raise UnidentifiedError(f"the ancestors of process `{pid}` cannot be read whole")
            return after
        before = after
    raise UnidentifiedError(f"the ancestors of process `{pid}` do not hold still")


def _read_lineage(pid: int) -> tuple[Process, ...]:
    line: list[Process] = []
    while pid > 0 and len(line) < _MAX_ANCESTORS:
        found = process(pid, dead=bool(line))
        if found is None:
            break
        line.append(found)
        pid = found.parent
    return tuple(line)


def owner_uid(pid: int) -> int | None:
    """Return the effective uid a process runs under, or None when it has gone.

    Read from ``status``: the owner of ``/proc/PID`` is root for a process that is not dumpable.
    """
    try:
        text = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[2])
    return None
