"""From a peer to what the kernel says of it, and from that to the identities it may have.

Order matters: the process is pinned first, everything is read, and the pin is looked at again. A
process that was replaced in between is refused, not described.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from remit.identity.workload_api.peer import Peer
from remit.identity.workload_api.proc import process
from remit.identity.workload_api.processes import ProcessBook
from remit.model.errors import ConfigError, UnidentifiedError
from remit.model.subject import SpiffeId

_SELECTOR = re.compile(r"unix:(uid:\d{1,10}|gid:\d{1,10}|path:/[^\0\n]+|sha256:[0-9a-f]{64})\Z")
_DELETED = " (deleted)"
_REMEMBERED_FILES = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """One SPIFFE ID and the selectors that a process must match, all of them.

    Raises:
        ConfigError: there is no selector (it would match everybody), or one is malformed.
    """

    spiffe_id: SpiffeId
    selectors: frozenset[str]

    def __post_init__(self) -> None:
        if not self.selectors:
            raise ConfigError(f"`{self.spiffe_id}` has no selector, and would go to every process")
        for selector in sorted(self.selectors):
            if not _SELECTOR.match(selector):
                raise ConfigError(
                    f"`{selector}` is not a selector: unix:uid:N, unix:gid:N, unix:path:/…, "
                    "unix:sha256:<64 lower-case hex digits>"
                )


class Entries(Protocol):
    """Who may have which identity now. Suspended and retired agents are left out."""

    def entries(self) -> Iterable[Entry]:
        """Return the entries of active agents that are known by selectors."""
        ...

    def agent(self, name: str) -> SpiffeId | None:
        """Return the SPIFFE ID of an active agent that is known by its registered process."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the kernel says of a peer. ``path`` and ``sha256`` are None where it will not tell.

    ``agent`` is the agent whose registered process this is or descends from.
    """

    uid: int
    gid: int
    pid: int
    start_time: int
    path: str | None
    sha256: str | None
    agent: str | None

    @property
    def selectors(self) -> frozenset[str]:
        """The selectors that hold of this process, written as SPIRE's ``unix`` attestor does."""
        said = {f"unix:uid:{self.uid}", f"unix:gid:{self.gid}"}
        if self.path is not None:
            said.add(f"unix:path:{self.path}")
        if self.sha256 is not None:
            said.add(f"unix:sha256:{self.sha256}")
        return frozenset(said)

    def identities(self, entries: Entries) -> tuple[SpiffeId, ...]:
        """Return the identities this process may have, the same order every time.

        A registered process has its agent's and no other, whatever selectors would match.

        Raises:
            UnidentifiedError: it may have none.
        """
        if self.agent is not None:
            own = entries.agent(self.agent)
            if own is None:
                raise UnidentifiedError(f"agent `{self.agent}` is not active")
            return (own,)
        held = self.selectors
        found = {str(e.spiffe_id): e.spiffe_id for e in entries.entries() if e.selectors <= held}
        if not found:
            raise UnidentifiedError(f"process `{self.pid}` matches no entry")
        return tuple(found[key] for key in sorted(found))


class Attestor:
    """Attests peers; remembers the digests of executables by everything that a change moves."""

    def __init__(self, processes: ProcessBook) -> None:
        self._processes = processes
        self._digests: OrderedDict[tuple[int, ...], str] = OrderedDict()

    async def attest(self, peer: Peer) -> Workload:
        """Return what the kernel says of ``peer`` now.

        Raises:
            UnidentifiedError: it has gone, was replaced, may be an orphan of two agents, or one that
                outlived its supervisor.
        """
        first = process(peer.pid) if peer.alive else None
        if first is None:
            raise UnidentifiedError(f"process `{peer.pid}` has gone")
        path, digest = await self._executable(peer.pid)
        agent = self._processes.resolve(peer.pid)
        if agent is None and (held := self._processes.agents_over(peer.pid)):
            raise UnidentifiedError(
                f"process `{peer.pid}` belongs to agent `{min(held)}`, may belong to another too, or "
                "was left behind by one"
            )
        last = process(peer.pid)
        if last is None or last.start_time != first.start_time or not peer.alive:
            raise UnidentifiedError(f"process `{peer.pid}` was replaced while it was attested")
        return Workload(
            uid=peer.uid,
            gid=peer.gid,
            pid=peer.pid,
            start_time=first.start_time,
            path=path,
            sha256=digest,
            agent=agent,
        )

    async def _executable(self, pid: int) -> tuple[str | None, str | None]:
        """Return path and SHA-256 of the running file, through the process's own link to it."""
        link = f"/proc/{pid}/exe"
        try:
            handle = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Another user's process, and we are not root: only uid and gid can be said of it.
            return None, None
        try:
            path = _path_here(link, handle)
            # A change of content moves ctime, which no unprivileged process can set back.
            status = os.fstat(handle)
            key = (
                status.st_dev,
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
            digest = self._digests.get(key)
            if digest is None:
                digest = await asyncio.to_thread(_digest, handle)
                self._digests[key] = digest
                while len(self._digests) > _REMEMBERED_FILES:
                    self._digests.popitem(last=False)
        except OSError:
            return None, None
        finally:
            os.close(handle)
        return path, digest


def _digest(handle: int) -> str:
    with open(handle, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _path_here(link: str, handle: int) -> str | None:
    """Return the executable's path if it names that very file *here*.

    A process in a mount namespace of its own can run any file under any path; so the path counts
    only if, in our namespace, it leads to the same inode.
    """
    path = os.readlink(link)  # noqa: PTH115  (text as the kernel gives it, with its mark)
    if path.endswith(_DELETED):
        return None
    try:
        here = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    there = os.fstat(handle)
    return path if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) else None
