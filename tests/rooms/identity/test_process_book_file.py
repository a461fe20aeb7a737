"""What the book of processes remembers over a restart of the authority."""

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

from remit.identity.workload_api import book_file
from remit.identity.workload_api.proc import process
from remit.identity.workload_api.processes import ProcessBook
from remit.model.errors import ConfigError, UnavailableError

SECONDS = 20
# A supervisor as `remit run` is one: it takes in orphans; its child leaves one that outlives it.
BOSS = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        print(os.getppid(), os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


class Family:
    """A supervisor, its agent, and what the agent left."""

    def __init__(self) -> None:
        self.popen = subprocess.Popen([sys.executable, "-c", BOSS], stdout=subprocess.PIPE)
        assert self.popen.stdout is not None
        self.agent, self.left = (int(word) for word in self.popen.stdout.readline().split())

    def join(self, book: ProcessBook) -> None:
        found = process(self.agent)
        assert found is not None
        # The reaper is not named: every ancestor may be it, whatever runs these tests.
        book.register(
            "a", self.agent, found.start_time, os.getuid(), by_pid=self.popen.pid, reaper=1
        )

    def kill(self, *pids: int) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            end = time.monotonic() + SECONDS
            while pid != self.popen.pid and process(pid) is not None:
                assert time.monotonic() < end
                time.sleep(0.01)
        if self.popen.pid in pids:
            self.popen.wait()


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    for pid in (family.agent, family.left):
        if process(pid) is not None:
            os.kill(pid, signal.SIGKILL)
    family.popen.kill()
    family.popen.communicate()


def test_after_a_restart_an_agent_is_still_an_agent(tmp_path: Path, family: Family):
    family.join(ProcessBook(file=tmp_path / "book.json"))
    again = ProcessBook(file=tmp_path / "book.json")
    assert again.resolve(family.agent) == "a"
    assert again.agents_over(family.left) == {"a"}
    assert (tmp_path / "book.json").stat().st_mode & 0o777 == 0o600
    again.forget(family.agent, by_uid=os.getuid())
    assert ProcessBook(file=tmp_path / "book.json").resolve(family.agent) is None


def test_a_supervisor_that_was_killed_while_nobody_looked_is_found_at_the_next_start(
    tmp_path: Path, family: Family
):
    family.join(ProcessBook(file=tmp_path / "book.json"))
    family.kill(family.popen.pid)
    again = ProcessBook(file=tmp_path / "book.json")
    assert again.agents_over(family.left) == {"a"}
    assert again.resolve(family.left) is None
    assert again.left_behind("a")


def test_where_nothing_is_left_the_next_start_forgets(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "book.json"
    family.join(ProcessBook(file=path))
    family.kill(family.popen.pid)
    monkeypatch.setattr(book_file, "pids", lambda: [1, family.agent, family.left])
    assert ProcessBook(file=path).left_behind("a")
    family.kill(family.left, family.agent)
    assert not ProcessBook(file=path).left_behind("a")


def test_the_owner_can_say_that_nothing_is_left(tmp_path: Path, family: Family):
    family.join(ProcessBook(file=tmp_path / "book.json"))
    book_file.forget(tmp_path / "book.json")
    assert not ProcessBook(file=tmp_path / "book.json").agents_over(family.left)
    book_file.forget(tmp_path / "book.json")


def test_another_boot_has_other_processes(tmp_path: Path, family: Family):
    path = tmp_path / "book.json"
    family.join(ProcessBook(file=path))
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "boot": "another"}))
    assert not ProcessBook(file=path).agents_over(family.agent)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_book_stops_the_start_and_says_what_to_do(tmp_path: Path, data: bytes):
    path = tmp_path / "book.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="--forget-agents"):
        ProcessBook(file=path)


def test_an_agent_that_cannot_be_kept_is_not_registered(tmp_path: Path, family: Family):
    book = ProcessBook(file=tmp_path / "none" / "book.json")
    with pytest.raises(UnavailableError):
        family.join(book)
    assert book.resolve(family.agent) is None
