"""Who is at the other end of a Unix socket, from the kernel and nobody else.

A pid is a number that the kernel gives out again. So a peer is pinned when it connects: by a pidfd
of the connecting process where the kernel offers one (``SO_PEERPIDFD``, Linux 6.5), else by one
opened at once. A pidfd never comes to mean another process. The credentials are those of the
process that called ``connect``; whoever it hands the connection to acts in its name.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from dataclasses import dataclass, field
from typing import Protocol

from remit.model.errors import UnavailableError, UnidentifiedError

_SO_PEERPIDFD = 77
_CREDENTIALS = struct.Struct("iII")


class _Options(Protocol):
    """What asyncio's and uvloop's sockets both have."""

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...


@dataclass(slots=True, eq=False)
class Peer:
    """One connected process. ``close`` it when the connection ends."""

    uid: int
    gid: int
    pid: int
    _pidfd: int = field(default=-1, repr=False)

    @classmethod
    def of(cls, connection: _Options) -> Peer:
        """Return the peer of a connected Unix socket, pinned.

        Raises:
            UnidentifiedError: the peer has no pid here (another pid namespace), or has gone.
            UnavailableError: this system cannot say who a peer is.
        """
        if sys.platform != "linux":
            raise UnavailableError("peers are attested from Linux's SO_PEERCRED only")
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(raw)
        if pid <= 0:
            raise UnidentifiedError("the peer's process is not visible from here")
        return cls(uid, gid, pid, _pidfd_of(connection, pid))

    @property
    def alive(self) -> bool:
        """Whether the process that connected still runs: a pidfd turns readable when it exits."""
        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Let go of the process; it counts as gone from here on."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _pidfd_of(connection: _Options, pid: int) -> int:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
    except OSError:
        # Linux before 6.5 (or a peer that was reaped already): the pid may in theory have been
        # given out again between connect and here, which takes a full turn of the pid counter.
        try:
            return os.pidfd_open(pid)
        except OSError as error:
            raise UnidentifiedError(f"process `{pid}` has gone") from error
    return int.from_bytes(raw, sys.byteorder)
