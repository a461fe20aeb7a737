"""`remit run`: named before it executes, supervised until nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from workload_house import Control, control_socket

from remit.identity.workload_api.proc import process
from remit.identity.workload_api.processes import ProcessBook

RUN = """
import json, sys
from pathlib import Path
from remit.cli.run_agent import run_agent
from remit.model.errors import RemitError
socket, agent, environment, *command = sys.argv[1:]
try:
    sys.exit(run_agent(command, agent=agent, socket=Path(socket), environment=json.loads(environment)))
except RemitError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(3)
"""
SECONDS = 20


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with control_socket(tmp_path / "control", ProcessBook(), {"a", "b"}) as running:
        yield running


def begin(control: Control, *command: str, agent: str = "a") -> subprocess.Popen[str]:
    environment = json.dumps({"SPIFFE_ENDPOINT_SOCKET": "unix:/x", "REMIT_URL": "http://r"})
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(control.path), agent, environment, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(popen: subprocess.Popen[str], word: str | None = None) -> tuple[int, str, str]:
    try:
        said, complained = popen.communicate(word, timeout=SECONDS)
    finally:
        popen.kill()
        popen.wait()
    return popen.returncode, said, complained


def until_gone(pid: int) -> None:
    end = time.monotonic() + SECONDS
    while process(pid) is not None:
        assert time.monotonic() < end, f"{pid} still runs"
        time.sleep(0.01)


def test_the_command_runs_with_its_environment_and_its_status_is_ours(control: Control):
    code = "import os; print(os.environ['SPIFFE_ENDPOINT_SOCKET'], os.environ['REMIT_URL'], 'PATH' in os.environ); raise SystemExit(7)"
    status, said, complained = finish(begin(control, sys.executable, "-c", code))
    assert (status, said.split(), complained) == (7, ["unix:/x", "http://r", "True"], "")
    (post, posted), (delete, deleted) = control.asked
    assert (post, posted, delete) == ("POST", "/processes", "DELETE")
    assert deleted.startswith("/processes/")
    assert not control.book._by_pid


def test_the_process_is_registered_before_it_executes(control: Control):
    popen = begin(
        control, sys.executable, "-c", "import os; print(os.getpid(), flush=True); input()"
    )
    assert popen.stdout is not None
    pid = int(popen.stdout.readline())
    assert control.book.resolve(pid) == "a"
    assert control.book.resolve(popen.pid) is None
    os.kill(pid, signal.SIGKILL)
    assert finish(popen)[0] == 128 + signal.SIGKILL
    assert control.book.resolve(pid) is None


@pytest.mark.parametrize(
    ("agent", "refuse", "says"),
    [
        ("unknown", None, "no agent `unknown` is registered"),
        ("a", (409, b'{"message": "agent `a` is suspended"}'), "agent `a` is suspended"),
        ("a", (500, b"<html>"), "status 500"),
        ("a", (200, b"{}"), "status 200"),
        ("a", (403, b'{"message": "two\\nlines\\u001b[31m"}'), "two lines [31m"),
    ],
)
def test_a_refused_agent_never_executes(
    control: Control, tmp_path: Path, agent: str, refuse: tuple[int, bytes] | None, says: str
):
    control.refuse = refuse
    mark = tmp_path / "mark"
    status, _, complained = finish(begin(control, "touch", str(mark), agent=agent))
    assert status == 3
    assert says in complained
    assert complained.startswith("UnidentifiedError: the authority refused")
    assert complained.count("\n") == 1
    assert not mark.exists()


def test_without_an_authority_nothing_executes(tmp_path: Path):
    nowhere = Control(tmp_path / "nobody", ProcessBook(), set())
    mark = tmp_path / "mark"
    status, _, complained = finish(begin(nowhere, "touch", str(mark)))
    assert status == 3
    assert "the authority cannot be reached" in complained
    assert "remit up" in complained
    assert not mark.exists()


def test_an_unknown_program_is_refused_before_anyone_is_asked(control: Control):
    for command, refusal in ((["no-such-program"], "CommandError"), ([], "ConfigError")):
        status, _, complained = finish(begin(control, *command))
        assert status == 3
        assert complained.startswith(refusal)
    assert control.asked == []


def test_a_program_that_cannot_be_executed_says_so(control: Control, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nothing")
    broken.chmod(0o755)
    status, _, complained = finish(begin(control, str(broken)))
    assert status == 126
    assert "cannot be executed" in complained


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_agent_and_its_end_is_our_status(control: Control, number: int):
    # The agent handles none of them: Python's own handler for SIGINT is taken away as well.
    code = "import signal, time; signal.signal(2, signal.SIG_DFL); print('up', flush=True); time.sleep(60)"
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:  # as under nohup: an ignored signal would stay ignored below us
        signal.signal(number, signal.SIG_DFL)
    try:
        popen = begin(control, sys.executable, "-c", code)
    finally:
        signal.signal(number, before)
    assert popen.stdout is not None
    assert popen.stdout.readline() == "up\n"
    os.kill(popen.pid, number)
    assert finish(popen)[0] == 128 + number


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.dup2(os.open('/dev/null', os.O_RDWR), 1)
        os.dup2(1, 2)
        time.sleep(60)
    os._exit(0)
os.wait()
from pathlib import Path
me = os.getpid()
boss = os.getppid()
def parent(pid):
    try: return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])
    except OSError: return 0
print(*[p.name for p in Path('/proc').iterdir() if p.name.isdigit() and parent(p.name) == boss and int(p.name) != me], flush=True)
input() if len(sys.argv) > 1 else None
"""


def test_a_daemon_the_agent_leaves_behind_is_still_the_agents_and_ends_with_it(control: Control):
    popen = begin(control, sys.executable, "-c", DAEMON, "wait")
    assert popen.stdout is not None
    (daemon,) = (int(word) for word in popen.stdout.readline().split())
    assert control.book.resolve(daemon) == "a"
    assert control.book.agents_over(daemon) == {"a"}
    assert finish(popen, "\n")[0] == 0
    until_gone(daemon)


def test_two_agents_under_one_uid_are_told_apart(control: Control):
    code = "import os; print(os.getpid(), flush=True); input()"
    runs = [begin(control, sys.executable, "-c", code, agent=name) for name in ("a", "b")]
    pids = []
    for popen in runs:
        assert popen.stdout is not None
        pids.append(int(popen.stdout.readline()))
    assert [control.book.resolve(pid) for pid in pids] == ["a", "b"]
    for popen in runs:
        os.kill(popen.pid, signal.SIGTERM)
        assert finish(popen)[0] == 128 + signal.SIGTERM


def test_the_agent_dies_with_a_supervisor_that_is_killed(control: Control):
    popen = begin(
        control, sys.executable, "-c", "import os; print(os.getpid(), flush=True); input()"
    )
    assert popen.stdout is not None
    pid = int(popen.stdout.readline())
    popen.kill()
    popen.wait()
    until_gone(pid)
    assert control.book.resolve(pid) is None
    finish(popen)


def test_an_agent_cannot_register_a_process_nor_run_another_agent(control: Control):
    environment = json.dumps({})
    inner = [sys.executable, "-c", RUN, str(control.path), "b", environment, "true"]
    status, _, complained = finish(begin(control, *inner))
    assert status == 3
    assert "agent `a` may not use the control socket" in complained
