"""The book of processes that act for an agent, registered before they execute anything.

Interpreters share an executable, so path and digest cannot tell two agents apart. A process that
``remit run`` started can: it is named here by pid and start time, and whatever descends from it
belongs to the same agent. A descendant that outlived its parent is handed by the kernel to the
supervisor (``PR_SET_CHILD_SUBREAPER``), so the supervisor's other descendants belong too.

Rules: a process is registered once; nobody registers a process of another uid, nor one that is
already an agent's; a pid with another start time is another process.

A supervisor that ends takes its registration back first. One that did not was killed, perhaps by
its agent, and whatever the agent left behind is now the child of whoever takes in orphans there. So
from then on nobody can be told from the agent who started after it and hangs below such a reaper:
each may be the agent, none has an identity, none is the owner. The agent's own process has none
either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from remit.identity.workload_api import book_file
from remit.identity.workload_api.proc import Process, lineage, owner_uid, process
from remit.model.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    RemitError,
    UnidentifiedError,
)
from remit.model.record import Context, Recorder, Step

_FIRST_PID = 1
_MAX_REFUSALS = 64
"""Refusals recorded of one agent: it may ask as often as it likes, and fill no log by that."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One registered process; ``supervisor`` is the subreaper that started it, if it has one.

    ``reapers`` are those who may take in what the supervisor held, once it was killed.
    """

    agent: str
    process: Process
    by_uid: int
    supervisor: Process | None = None
    reapers: frozenset[tuple[int, int]] = frozenset()

    @property
    def lost(self) -> bool:
        """Whether the supervisor ended without taking the registration back: it was killed."""
        return self.supervisor is not None and not _runs(self.supervisor)

    def may_be(self, line: Iterable[Process], uid: int | None) -> bool:
        """Say whether a process may descend from this one, by its lineage and uid.

        Only what started after it can, and only if a reaper took it or an ancestor of it in. Root
        could have become another user meanwhile, nobody else.
        """
        if self.by_uid not in {0, uid}:
            return False
        return any(
            child.start_time >= self.process.start_time
            and (parent.pid, parent.start_time) in self.reapers
            for child, parent in pairwise(line)
        )


class ProcessBook:
    """Which live processes belong to which agent.

    Args:
        recorder: is told of supervisors that were killed, and of agents at the control socket.
        file: keeps the book over a restart; without it, a restart forgets.

    Raises:
        ConfigError: the file is damaged or cannot be read.
    """

    def __init__(self, recorder: Recorder | None = None, *, file: Path | None = None) -> None:
        self._recorder = recorder
        self._file = file
        self._by_pid: dict[int, Registration] = {}
        self._lost: list[Registration] = []
        self._refused: dict[str, set[tuple[int, int]]] = {}
        if file is not None:
            self._take(book_file.read(file, Registration))

    def register(
        self,
        agent: str,
        pid: int,
        start_time: int,
        by_uid: int,
        *,
        by_pid: int | None = None,
        reaper: int | None = None,
    ) -> Registration:
        """Say that a process, and what descends from it, acts for ``agent``.

        Args:
            agent: the agent's name in the registry; the caller has looked it up.
            pid: the process, started but not yet executing the agent.
            start_time: its start time, in clock ticks since boot.
            by_uid: the uid of the peer that asks, from the kernel.
            by_pid: the pid of the peer that asks. Give it when the peer is a subreaper that starts
                nothing else, as ``remit run`` is: then its orphans belong to the agent as well.
            reaper: the pid that takes in the orphans of that peer, if it knows: an ancestor of it.
                Without it, every ancestor counts as one.

        Raises:
            InputError: there is no such process, or it started at another time.
            UnidentifiedError: the process runs under another uid than the peer.
            ConflictError: the process belongs to an agent already.
            UnavailableError: it cannot be written down; nothing is registered.
        """
        self.notice()
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
        reapers = (
            frozenset[tuple[int, int]]() if supervisor is None else _reapers(supervisor, reaper)
        )
        registration = Registration(agent, found, by_uid, supervisor, reapers)
        self._keep({**self._by_pid, pid: registration})
        return registration

    def forget(self, pid: int, *, by_uid: int) -> None:
        """Take a registration back.

        Raises:
            NotFoundError: nothing is registered under ``pid`` by this uid.
            UnavailableError: that cannot be written down; the registration stands.
        """
        registration = self._by_pid.get(pid)
        if registration is None or registration.by_uid != by_uid:
            raise NotFoundError(f"no process `{pid}` is registered")
        self._keep({other: held for other, held in self._by_pid.items() if other != pid})

    def resolve(self, pid: int) -> str | None:
        """Return the agent that ``pid`` belongs to, or None.

        None also where a supervisor holds the orphans of two agents, so that it cannot be said, and
        where the supervisor was killed.
        """
        line = lineage(pid)
        self.notice()
        for ancestor in line:
            registration = self._by_pid.get(ancestor.pid)
            if registration is not None and _same(registration.process, ancestor):
                return registration.agent
        orphaned = self._supervised(line)
        return next(iter(orphaned)) if len(orphaned) == 1 else None

    def agents_over(self, pid: int) -> frozenset[str]:
        """Return every agent that ``pid`` is, descends from, or may be an orphan of."""
        line = lineage(pid)
        self.notice()
        held = {ancestor.pid: ancestor for ancestor in line}
        direct = {
            registration.agent
            for registration in (*self._by_pid.values(), *self._lost)
            if (ancestor := held.get(registration.process.pid)) is not None
            and _same(registration.process, ancestor)
        }
        return frozenset(direct) or self._supervised(line) or self._left_behind(pid, line)

    def notice(self) -> None:
        """Look which supervisors were killed, and record it; call it from time to time.

        Whoever read a lineage first and calls this then sees every loss that it could show: a
        process is dead, and its children another's, in one step of the kernel's.
        """
        # Waits until a step that is under way is over: it takes the same lock (kill(2), own group).
        os.kill(0, 0)
        for pid, registration in list(self._by_pid.items()):
            if registration.lost:
                del self._by_pid[pid]
                self._lost.append(registration)
                self._record("agent.supervisor_lost", registration.agent, registration.process.pid)

    def left_behind(self, agent: str) -> bool:
        """Say whether a supervisor of this agent was killed."""
        return any(registration.agent == agent for registration in self._lost)

    def refused(self, pid: int, agents: Iterable[str]) -> None:
        """Record that a process was refused as an agent's: once, and not without end."""
        found = process(pid)
        key = (pid, 0 if found is None else found.start_time)
        for agent in sorted(agents):
            known = self._refused.setdefault(agent, set())
            if key not in known and len(known) < _MAX_REFUSALS:
                known.add(key)
                self._record("agent.control_refused", agent, pid)

    def _keep(self, by_pid: dict[int, Registration]) -> None:
        if self._file is not None:
            book_file.write(self._file, [*by_pid.values(), *self._lost])
        self._by_pid = by_pid

    def _take(self, held: Iterable[Registration]) -> None:
        """Take in what an earlier run held, but for what has ended and left nothing behind.

        A supervisor that ended while no authority ran could not take its registration back, so that
        alone does not say that it was killed.
        """
        ours = {each.pid for each in lineage(os.getpid())}
        lines = [(pid, _line(pid)) for pid in book_file.pids() if pid not in ours]
        for registration in held:
            if registration.lost:
                if any(
                    line is None or self._hangs_below(registration, pid, line)
                    for pid, line in lines
                ):
                    self._lost.append(registration)
                    self._record(
                        "agent.supervisor_lost", registration.agent, registration.process.pid
                    )
            elif registration.supervisor is not None or _runs(registration.process):
                self._by_pid[registration.process.pid] = registration

    def _hangs_below(self, registration: Registration, pid: int, line: tuple[Process, ...]) -> bool:
        below = any(_same(registration.process, each) for each in line)
        return below or registration.may_be(line, owner_uid(pid))

    def _record(self, kind: str, agent: str, pid: int) -> None:
        if self._recorder is not None:
            # What cannot be recorded now is refused all the same.
            with suppress(RemitError):
                self._recorder.stage(Step(kind, {"agent": agent, "pid": pid}), Context())

    def _left_behind(self, pid: int, line: tuple[Process, ...]) -> frozenset[str]:
        if not self._lost:
            return frozenset()
        uid = owner_uid(pid)
        return frozenset(r.agent for r in self._lost if r.may_be(line, uid))

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
        """Drop processes that have ended; those of a supervisor are its own to take back."""
        self._by_pid = {
            pid: held
            for pid, held in self._by_pid.items()
            if held.supervisor is not None or _runs(held.process)
        }


def _same(known: Process, seen: Process) -> bool:
    return known.pid == seen.pid and known.start_time == seen.start_time


def _runs(known: Process) -> bool:
    now = process(known.pid)
    return now is not None and _same(known, now)


def _reapers(supervisor: Process, reaper: int | None) -> frozenset[tuple[int, int]]:
    """Return who may take in what a supervisor held, by pid and start time.

    The reaper that it named, if that is an ancestor, those above it and the first process; else
    every ancestor.
    """
    above = lineage(supervisor.pid)[1:]
    first = process(_FIRST_PID)
    places = {ancestor.pid: place for place, ancestor in enumerate(above)}
    if reaper == _FIRST_PID and _FIRST_PID not in places:
        above = ()  # entered from outside of this pid namespace: no ancestor here, bar the first
    else:
        above = above[places.get(reaper or 0, 0) :]
    found = above if first is None else (*above, first)
    return frozenset((each.pid, each.start_time) for each in found)


def _line(pid: int) -> tuple[Process, ...] | None:
    """Return a lineage, None where it cannot be read."""
    try:
        return lineage(pid)
    except UnidentifiedError:
        return None
