"""What the kernel says of a peer, and what follows from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workload_house import Roll, agent_id

from remit.identity.workload_api import attestation, processes
from remit.identity.workload_api.attestation import Attestor, Entry
from remit.identity.workload_api.peer import Peer
from remit.identity.workload_api.proc import Process, lineage, owner_uid, process
from remit.identity.workload_api.processes import ProcessBook
from remit.model.errors import (
    ConfigError,
    ConflictError,
    InputError,
    NotFoundError,
    UnidentifiedError,
)

Start = Callable[..., "subprocess.Popen[bytes]"]

REAL = Path(sys.executable).resolve()
CONNECT = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
CHILD = (
    "import subprocess,sys; c=subprocess.Popen(['sleep','60']); print(c.pid, flush=True); c.wait()"
)
TWO_CHILDREN = """
import subprocess, sys
a, b = subprocess.Popen(['sleep', '60']), subprocess.Popen(['sleep', '60'])
print(a.pid, b.pid, flush=True)
a.wait()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: str) -> subprocess.Popen[bytes]:
        popen = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        started.append(popen)
        return popen

    yield begin
    for popen in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, 9)
        popen.wait()
        if popen.stdout is not None:
            popen.stdout.close()


def peer_from(tmp_path: Path, start: Start, *program: str) -> tuple[Peer, socket.socket]:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        start(*program, path)
        connection, _ = listener.accept()
    return Peer.of(connection), connection


def line(popen: subprocess.Popen[bytes]) -> list[int]:
    assert popen.stdout is not None
    return [int(word) for word in popen.stdout.readline().split()]


def end(pid: int) -> None:
    os.kill(pid, 9)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def register(book: ProcessBook, agent: str, pid: int, by_pid: int | None = None) -> None:
    found = process(pid)
    assert found is not None
    book.register(agent, pid, found.start_time, os.getuid(), by_pid=by_pid)


@pytest.mark.parametrize(
    "selector",
    [
        "",
        "uid:0",
        "unix:uid:",
        "unix:uid:-1",
        "unix:uid:0 ",
        "unix:uid:0\n",
        "unix:path:bin/x",
        "unix:sha256:ABCDEF",
        f"unix:sha256:{'A' * 64}",
        f"unix:sha256:{'a' * 65}",
        "k8s:ns:x",
    ],
)
def test_a_malformed_selector_is_refused(selector: str):
    with pytest.raises(ConfigError, match="is not a selector"):
        Entry(agent_id("a"), frozenset({"unix:uid:0", selector}))


def test_an_entry_without_selectors_would_match_everybody_and_is_refused():
    with pytest.raises(ConfigError, match="no selector"):
        Entry(agent_id("a"), frozenset())


async def test_the_kernel_tells_uid_gid_pid_executable_and_its_digest(tmp_path: Path, start: Start):
    peer, connection = peer_from(tmp_path, start, sys.executable, "-c", CONNECT)
    with connection:
        seen = await Attestor(ProcessBook()).attest(peer)
        assert (seen.uid, seen.gid, seen.pid) == (os.getuid(), os.getgid(), peer.pid)
        assert seen.path == str(REAL)
        assert seen.sha256 == hashlib.sha256(REAL.read_bytes()).hexdigest()
        assert seen.agent is None
        roll = Roll()
        roll.admit("right", f"unix:uid:{seen.uid}", f"unix:sha256:{seen.sha256}")
        roll.admit("wrong", f"unix:uid:{seen.uid}", f"unix:sha256:{'0' * 64}")
        roll.admit("other-user", f"unix:uid:{seen.uid + 1}", f"unix:path:{seen.path}")
        assert seen.identities(roll) == (agent_id("right"),)
    peer.close()


async def test_a_process_that_matches_no_entry_has_no_identity(tmp_path: Path, start: Start):
    peer, connection = peer_from(tmp_path, start, sys.executable, "-c", CONNECT)
    with connection:
        seen = await Attestor(ProcessBook()).attest(peer)
        roll = Roll()
        roll.admit("wrong", f"unix:sha256:{'0' * 64}")
        with pytest.raises(UnidentifiedError, match="matches no entry"):
            seen.identities(roll)
    peer.close()


async def test_a_changed_executable_has_another_digest_although_its_mtime_was_set_back(
    tmp_path: Path, start: Start
):
    own = tmp_path / "own"
    shutil.copy(REAL, own)
    before = own.stat()
    attestor = Attestor(ProcessBook())
    digests = []
    for ending in (b"", b"x"):
        data = own.read_bytes()
        own.write_bytes(data[:-1] + ending if ending else data)
        os.utime(own, ns=(before.st_atime_ns, before.st_mtime_ns))
        home = f"import sys; sys.path[:]={sys.path!r};"
        peer, connection = peer_from(tmp_path, start, str(own), "-S", "-c", home + CONNECT)
        with connection:
            digests.append((await attestor.attest(peer)).sha256)
        peer.close()
        (tmp_path / "s").unlink()
        end(peer.pid)
    assert own.stat().st_size == before.st_size
    assert digests[0] != digests[1]


async def test_a_deleted_executable_matches_no_path(tmp_path: Path, start: Start):
    own = tmp_path / "own"
    shutil.copy(REAL, own)
    home = f"import sys; sys.path[:]={sys.path!r};"
    peer, connection = peer_from(tmp_path, start, str(own), "-S", "-c", home + CONNECT)
    with connection:
        own.unlink()
        seen = await Attestor(ProcessBook()).attest(peer)
        assert seen.path is None
        assert seen.sha256 is not None
    peer.close()


async def test_a_path_that_names_another_file_here_is_not_believed(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
):
    # A mount namespace of its own makes the link say any path; the inode behind it does not lie.
    peer, connection = peer_from(tmp_path, start, sys.executable, "-c", CONNECT)
    with connection:
        monkeypatch.setattr(attestation.os, "readlink", lambda _: "/bin/sh")
        assert (await Attestor(ProcessBook()).attest(peer)).path is None
    peer.close()


async def test_a_peer_that_has_gone_is_refused(tmp_path: Path, start: Start):
    peer, connection = peer_from(tmp_path, start, sys.executable, "-c", CONNECT)
    with connection:
        assert peer.alive
        end(peer.pid)
        assert not peer.alive
        with pytest.raises(UnidentifiedError, match="has gone"):
            await Attestor(ProcessBook()).attest(peer)
    peer.close()


async def test_a_pid_given_out_again_while_it_is_attested_is_refused(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
):
    peer, connection = peer_from(tmp_path, start, sys.executable, "-c", CONNECT)
    readings = iter([Process(peer.pid, 1, 100), Process(peer.pid, 1, 200)])
    with connection:
        monkeypatch.setattr(attestation, "process", lambda _: next(readings))
        with pytest.raises(UnidentifiedError, match="was replaced"):
            await Attestor(ProcessBook()).attest(peer)
    peer.close()


def test_a_peer_without_a_visible_process_is_refused():
    class Foreign:
        def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
            return bytes(size)

    with pytest.raises(UnidentifiedError, match="not visible"):
        Peer.of(Foreign())


def test_without_the_newest_kernel_a_peer_is_pinned_by_its_pid():
    class Older:
        def __init__(self, connection: socket.socket) -> None:
            self.connection = connection

        def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
            if name != socket.SO_PEERCRED:
                raise OSError
            return self.connection.getsockopt(level, name, size)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer.of(Older(ours))
        assert peer.pid == os.getpid()
        assert peer.alive
        peer.close()
        assert not peer.alive


def test_a_command_name_full_of_brackets_does_not_confuse_the_reader(tmp_path: Path, start: Start):
    odd = tmp_path / ") R 1 (x) 9"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", odd)
    popen = start(str(odd), "60")
    while b"(x)" not in Path(f"/proc/{popen.pid}/stat").read_bytes():
        pass
    found = process(popen.pid)
    assert found is not None
    assert found.parent == os.getpid()


def test_a_descendant_belongs_to_its_registered_ancestor_and_a_stranger_to_nobody(start: Start):
    book = ProcessBook()
    one, two = start(sys.executable, "-c", CHILD), start(sys.executable, "-c", CHILD)
    register(book, "one", one.pid)
    register(book, "two", two.pid)
    assert book.resolve(line(one)[0]) == "one"
    assert book.resolve(line(two)[0]) == "two"
    assert book.resolve(os.getpid()) is None
    assert book.resolve(start("sleep", "60").pid) is None


def test_a_registration_of_another_start_time_is_another_process(start: Start):
    book = ProcessBook()
    popen = start("sleep", "60")
    found = process(popen.pid)
    assert found is not None
    with pytest.raises(InputError, match="did not start"):
        book.register("a", popen.pid, found.start_time + 1, os.getuid())
    assert book.resolve(popen.pid) is None


def test_a_reused_pid_does_not_inherit_a_registration(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    book = ProcessBook()
    popen = start("sleep", "60")
    register(book, "a", popen.pid)
    assert book.resolve(popen.pid) == "a"
    later = tuple(
        Process(p.pid, p.parent, p.start_time + (p.pid == popen.pid)) for p in lineage(popen.pid)
    )
    monkeypatch.setattr(processes, "lineage", lambda _: later)
    assert book.resolve(popen.pid) is None
    assert not book.agents_over(popen.pid)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_a_process_that_is_not_there_cannot_be_registered(pid: int):
    with pytest.raises(InputError, match="there is no process"):
        ProcessBook().register("a", pid, 1, os.getuid())


def test_a_process_of_another_uid_cannot_be_registered(start: Start):
    popen = start("sleep", "60")
    found = process(popen.pid)
    assert found is not None
    with pytest.raises(UnidentifiedError, match="another uid"):
        ProcessBook().register("a", popen.pid, found.start_time, os.getuid() + 1)


def test_an_agents_process_or_descendant_cannot_be_registered_again(start: Start):
    book = ProcessBook()
    popen = start(sys.executable, "-c", CHILD)
    register(book, "a", popen.pid)
    (child,) = line(popen)
    for pid in (popen.pid, child):
        with pytest.raises(ConflictError, match="acts for `a` already"):
            register(book, "b", pid)
    assert book.resolve(child) == "a"


def test_a_forgotten_process_is_nobodys_and_only_its_uid_can_forget_it(start: Start):
    book = ProcessBook()
    popen = start("sleep", "60")
    register(book, "a", popen.pid)
    with pytest.raises(NotFoundError):
        book.forget(popen.pid, by_uid=os.getuid() + 1)
    book.forget(popen.pid, by_uid=os.getuid())
    assert book.resolve(popen.pid) is None
    with pytest.raises(NotFoundError):
        book.forget(popen.pid, by_uid=os.getuid())


def test_a_supervisors_other_descendants_belong_to_its_agent_but_not_itself(start: Start):
    book = ProcessBook()
    supervisor = start(sys.executable, "-c", TWO_CHILDREN)
    agent, orphan = line(supervisor)
    register(book, "a", agent, by_pid=supervisor.pid)
    assert book.resolve(orphan) == "a"
    assert book.resolve(supervisor.pid) is None
    assert not book.agents_over(supervisor.pid)


def test_the_orphan_of_a_supervisor_of_two_agents_is_nobodys_and_yet_an_agents(start: Start):
    book = ProcessBook()
    code = TWO_CHILDREN.replace(
        "print(a.pid,", "c = subprocess.Popen(['sleep', '60'])\nprint(c.pid, a.pid,"
    )
    supervisor = start(sys.executable, "-c", code)
    orphan, first, second = line(supervisor)
    register(book, "a", first, by_pid=supervisor.pid)
    # The second one is an orphan of the first by the book, so it is entered by hand.
    found, boss = process(second), process(supervisor.pid)
    assert found is not None
    book._by_pid[second] = processes.Registration("b", found, os.getuid(), boss)
    assert book.resolve(orphan) is None
    assert book.agents_over(orphan) == {"a", "b"}
    assert book.resolve(second) == "b"


def test_only_a_parent_becomes_a_supervisor(start: Start):
    book = ProcessBook()
    agent, stranger = start("sleep", "60"), start(sys.executable, "-c", CHILD)
    register(book, "a", agent.pid, by_pid=stranger.pid)
    assert book.resolve(line(stranger)[0]) is None


def test_what_has_exited_has_no_lineage_and_no_owner(start: Start):
    popen = start("true")
    os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
    assert lineage(popen.pid) == ()
    popen.wait()
    assert owner_uid(popen.pid) is None
