"""A running authority is not read, nor traced, by another process of its uid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from remit.cli.hardening import forbid_tracing

SECONDS = 30

# Root may read everything, so as root both sides become nobody first. The interpreter may lie where
# nobody cannot read it: all is imported before, and nothing is executed after.
TRACE = """
import ctypes, json, os, sys
from remit.cli.hardening import forbid_tracing

libc = ctypes.CDLL(None, use_errno=True)
SECRET = b"a secret that is in memory only: " + os.urandom(8).hex().encode()
address = id(SECRET)

def become_nobody():
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    libc.prctl(4, 1, 0, 0, 0)  # what a program is that was executed as nobody

def attempt(pid):
    try:
        with open(f"/proc/{pid}/mem", "rb") as memory:
            memory.seek(address)
            read = SECRET in memory.read(len(SECRET) + 64)
    except OSError as error:
        read = type(error).__name__
    traced = libc.ptrace(16, pid, None, None) == 0  # PTRACE_ATTACH
    if traced:
        os.waitpid(pid, 0x40000000)
        libc.ptrace(17, pid, None, None)
    try:
        os.readlink(f"/proc/{pid}/exe")
        seen = True
    except OSError:
        seen = False
    return [read, traced, seen]

def look(pid):
    heard, said = os.pipe()
    if os.fork() == 0:
        become_nobody()
        os.write(said, json.dumps(attempt(pid)).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(heard, 4096))

results = {}
for hardened in (False, True):
    ready, tell = os.pipe()
    stay, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        become_nobody()
        if hardened:
            forbid_tracing()
        # It still can do what an authority does: look at its own, and start programs.
        fine = bool(os.listdir("/proc/self/fd")) and bool(os.readlink("/proc/self/exe"))
        os.write(tell, b"y" if fine else b"n")
        os.read(stay, 1)
        os._exit(0)
    assert os.read(ready, 1) == b"y"
    results[str(hardened)] = look(pid)
    os.close(end)
    os.wait()
print(json.dumps(results))
"""

UP = """
import contextlib, ctypes, os, signal, sys
from remit.app import serve
from remit.cli.main import status_of

@contextlib.asynccontextmanager
async def serving(loaded, **asked):
    print("dumpable", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    yield

serve.serving = serving
sys.exit(status_of(["up"]))
"""


def test_a_process_of_the_same_uid_reads_nothing_of_an_authority_and_does_not_trace_it():
    run = subprocess.run(
        [sys.executable, "-c", TRACE], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    if found["False"] != [True, True, True]:
        pytest.skip(f"here no process traces another of its uid: {found['False']}")
    assert found["True"] == ["PermissionError", False, False]


def test_remit_up_forbids_it_before_it_reads_a_key(tmp_path: Path):
    run = subprocess.run(
        [sys.executable, "-c", UP],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["dumpable", "0"]


def test_where_there_is_no_such_switch_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert forbid_tracing() is False
