"""An agent that kills its supervisor: what it leaves behind is still its own, and gets nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from orphans import HOSTILE
from workload_house import Control, Roll, control_socket

from remit.api.peers import owner_check
from remit.identity.workload_api.attestation import Attestor
from remit.identity.workload_api.peer import Peer
from remit.identity.workload_api.proc import process
from remit.identity.workload_api.processes import ProcessBook
from remit.model.errors import UnidentifiedError
from remit.model.record import Context, Step

RUN = """
import sys
from pathlib import Path
from remit.cli.run_agent import run_agent
socket, *command = sys.argv[1:]
sys.exit(run_agent(command, agent="a", socket=Path(socket), environment={}))
"""
SECONDS = 20


@dataclass
class Steps:
    """Implements ``model.record.Recorder``."""

    staged: list[Step] = field(default_factory=list)
    epoch: int = 0

    def stage(self, step: Step, context: Context) -> str:
        self.staged.append(step)
        return "rec_1"

    async def barrier(self) -> None:
        """Everything is durable at once."""


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def control(tmp_path: Path, steps: Steps) -> Iterator[Control]:
    with control_socket(tmp_path / "control", ProcessBook(steps), {"a"}) as running:
        yield running


def until(ready: object, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.01)


@dataclass
class Left:
    """What the agent left behind, and what the control socket answered it."""

    pid: int
    answer: str


def attack(control: Control, folder: Path, how: str) -> Iterator[Left]:
    answer = folder / "answer"
    command = [sys.executable, "-c", HOSTILE, str(control.path), str(answer), how]
    popen = subprocess.Popen(
        [sys.executable, "-c", RUN, str(control.path), *command], start_new_session=True
    )
    pid = 0
    try:
        # Not reaped before it is over: a zombie has ended as well.
        until(answer.exists, "the agent asked nothing")
        first, _, said = answer.read_text().partition("\n")
        pid = int(first)
        yield Left(pid, said)
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
        popen.kill()
        popen.wait()


@pytest.fixture(params=["daemon", "child", "immune"])
def left(control: Control, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Left]:
    yield from attack(control, tmp_path, request.param)


def pinned(pid: int) -> Peer:
    return Peer(os.getuid(), os.getgid(), pid, os.pidfd_open(pid))


def test_what_it_leaves_behind_is_refused_at_the_control_socket(control: Control, left: Left):
    assert " 401 " in left.answer.splitlines()[0]
    assert "agent `a` may not use the control socket" in left.answer
    assert "remit up --forget-agents" in left.answer
    assert control.book.agents_over(left.pid) == {"a"}


def test_what_it_leaves_behind_has_no_identity_any_more(control: Control, left: Left):
    roll = Roll(agents={"a"})
    roll.admit("other", f"unix:uid:{os.getuid()}")
    assert control.book.resolve(left.pid) is None
    peer = pinned(left.pid)
    with pytest.raises(UnidentifiedError, match="left behind"):
        asyncio.run(Attestor(control.book).attest(peer))
    peer.close()


def test_the_loss_and_the_refusal_are_recorded_once(control: Control, left: Left, steps: Steps):
    for _ in range(3):
        with pytest.raises(UnidentifiedError):
            owner_check(pinned(left.pid), os.getuid(), control.book)
    control.book.notice()
    kinds = [step.kind for step in steps.staged]
    assert kinds == ["agent.supervisor_lost", "agent.control_refused"]
    lost, refused = steps.staged
    assert lost.body["agent"] == refused.body["agent"] == "a"
    assert refused.body["pid"] == left.pid


def test_the_owners_processes_are_still_the_owners(control: Control, left: Left):
    assert not control.book.agents_over(os.getpid())
    # One that started after the agent, from the same terminal as it.
    late = subprocess.Popen(["sleep", "60"])
    try:
        assert owner_check(pinned(late.pid), os.getuid(), control.book)
    finally:
        late.kill()
        late.wait()


def test_a_supervisor_that_ends_as_it_should_loses_nothing(control: Control, steps: Steps):
    subprocess.run(
        [sys.executable, "-c", RUN, str(control.path), "true"], check=True, timeout=SECONDS
    )
    control.book.notice()
    assert steps.staged == []


def test_a_supervisor_that_is_refused_loses_nothing(control: Control, steps: Steps):
    control.refuse = (409, b'{"message": "suspended"}')
    ended = subprocess.run(
        [sys.executable, "-c", RUN, str(control.path), "true"],
        check=False,
        timeout=SECONDS,
        stderr=subprocess.DEVNULL,
    )
    assert ended.returncode
    control.book.notice()
    assert steps.staged == []


def test_a_reaper_that_is_no_ancestor_is_not_believed(control: Control):
    """Then every ancestor may have taken the orphans in: rather too many are refused than one too few."""
    stranger = subprocess.Popen(["sleep", "60"])
    boss = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"]
    )
    late = None
    try:
        until(lambda: children(boss.pid), "no child")
        (child,) = children(boss.pid)
        found = process(child)
        assert found is not None
        control.book.register(
            "a", child, found.start_time, os.getuid(), by_pid=boss.pid, reaper=stranger.pid
        )
        boss.kill()
        boss.wait()
        late = subprocess.Popen(["sleep", "60"])
        assert control.book.agents_over(late.pid) == {"a"}
        assert not control.book.agents_over(os.getpid())
    finally:
        os.kill(child, signal.SIGKILL)
        for popen in (stranger, boss, late):
            if popen is not None:
                popen.kill()
                popen.wait()


def children(pid: int) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [each for each in pids if (found := process(each)) is not None and found.parent == pid]


def test_the_probe_names_who_takes_orphans_in():
    code = "from remit.cli.run_agent import reaper; print(reaper())"
    nested = (
        "import ctypes, subprocess, sys, os; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0);"
        f"print(subprocess.run([sys.executable, '-c', {code!r}], capture_output=True, text=True)"
        ".stdout.strip() == str(os.getpid()))"
    )
    said = subprocess.run(
        [sys.executable, "-c", nested], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert said.stdout.strip() == "True"
    assert json.loads(
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        ).stdout
    ) not in {None, 0, os.getpid()}
