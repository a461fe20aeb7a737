"""The book of processes that act for an agent, registered before they execute anything.

Interpreters share an executable, so path and digest cannot tell two agents apart. A process that
``remit run`` started can: it is named here by pid and start time, and whatever descends from it
belongs to the same agent. A descendant that outlived its parent is handed by the kernel to the
supervisor (``PR_SET_CHILD_SUBREAPER``), so the supervisor's other descendants belong too.

Rules: a process is registered once; nobody registers a process of another uid, nor one that is
already an agent's; a pid with another start time is another process.
"""

from __future__ import annotations

from dataclasses import dataclass

from remit.identity.workload_api.proc import Process, lineage, owner_uid, process
from remit.model.errors import ConflictError, InputError, NotFoundError, UnidentifiedError


@dataclass(frozen=True, slots=True)
class Registration:
    """One registered process; ``supervisor`` is the subreaper that started it, if it has one."""

    agent: str
    process: Process
    by_uid: int
    supervisor: Process | None = None

    @property
    def alive(self) -> bool:
        """Whether the process still runs, or its supervisor does and may hold its orphans."""
        return _runs(self.process) or (self.supervisor is not None and _runs(self.supervisor))


class ProcessBook:
    """Which live processes belong to which agent. In memory: a restart forgets them all."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Registration] = {}

    def register(
        self, agent: str, pid: int, start_time: int, by_uid: int, *, by_pid: int | None = None
    ) -> Registration:
        """Say that a process, and what descends from it, acts for ``agent``.

        Args:
            agent: the agent's name in the registry; the caller has looked it up.
            pid: the process, started but not yet executing the agent.
            start_time: its start time, in clock ticks since boot.
            by_uid: the uid of the peer that asks, from the kernel.
            by_pid: the pid of the peer that asks. Give it when the peer is a subreaper that starts
                nothing else, as ``remit run`` is: then its orphans belong to the agent as well.

        Raises:
            InputError: there is no such process, or it started at another time.
            UnidentifiedError: the process runs under another uid than the peer.
            ConflictError: the process belongs to an agent already.
        """
        self._prune()
        found = process(pid) if pid > 0 else None
        if found is None:
            raise InputError(f"there is no process `{pid}`")
        if found.start_time != start_time:
            raise InputError(f"process `{pid}` did not start at `{start_time}`: it is another one")
        if owner_uid(pid) != by_uid:
            raise UnidentifiedError(f"process `{pid}` runs under another uid than yours")
        if held := self.agents_over(pid):
            raise ConflictError(f"process `{pid}` acts for `{min(held)}` already")
        # Only the process's own parent can be the one that takes over its orphans.
        supervisor = process(by_pid) if by_pid is not None and by_pid == found.parent else None
        registration = Registration(agent, found, by_uid, supervisor)
        self._by_pid[pid] = registration
        return registration

    def forget(self, pid: int, *, by_uid: int) -> None:
        """Take a registration back.

        Raises:
            NotFoundError: nothing is registered under ``pid`` by this uid.
        """
        registration = self._by_pid.get(pid)
        if registration is None or registration.by_uid != by_uid:
            raise NotFoundError(f"no process `{pid}` is registered")
        del self._by_pid[pid]

    def resolve(self, pid: int) -> str | None:
        """Return the agent that ``pid`` belongs to, or None.

        None also where a supervisor holds the orphans of two agents, so that it cannot be said.
        """
        line = lineage(pid)
        for ancestor in line:
            registration = self._by_pid.get(ancestor.pid)
            if registration is not None and _same(registration.process, ancestor):
                return registration.agent
        orphaned = self._supervised(line)
        return next(iter(orphaned)) if len(orphaned) == 1 else None

    def agents_over(self, pid: int) -> frozenset[str]:
        """Return every agent that ``pid`` is, descends from, or may be an orphan of."""
        line = lineage(pid)
        direct = {
            registration.agent
            for ancestor in line
            if (registration := self._by_pid.get(ancestor.pid)) is not None
            and _same(registration.process, ancestor)
        }
        return frozenset(direct) or self._supervised(line)

    def _supervised(self, line: tuple[Process, ...]) -> frozenset[str]:
        """Return the agents whose supervisor is an ancestor; never of the supervisor itself."""
        above = {ancestor.pid: ancestor for ancestor in line[1:]}
        return frozenset(
            registration.agent
            for registration in self._by_pid.values()
            if registration.supervisor is not None
            and (ancestor := above.get(registration.supervisor.pid)) is not None
            and _same(registration.supervisor, ancestor)
        )

    def _prune(self) -> None:
        self._by_pid = {pid: held for pid, held in self._by_pid.items() if held.alive}


def _same(known: Process, seen: Process) -> bool:
    return known.pid == seen.pid and known.start_time == seen.start_time


def _runs(known: Process) -> bool:
    now = process(known.pid)
    return now is not None and _same(known, now)
