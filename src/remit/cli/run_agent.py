"""The core of ``remit run --agent NAME -- COMMAND``: a process known before it executes.

The child waits on a pipe. The parent names it to the authority by pid and start time, and only when
the authority has answered does the child execute. The parent stays as its supervisor: it takes in
descendants that lose their parent, passes signals on, ends what the agent leaves behind, and takes
the registration back when nothing of the agent runs any more. When the parent dies, the child is
killed. When the parent is killed, by its agent perhaps, the registration stays, and the authority
takes what hangs where the agent's orphans would for the agent.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from remit.cli.starting import program_of
from remit.identity.workload_api.proc import process
from remit.model.errors import ConfigError, RemitError, UnavailableError, UnidentifiedError

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_NOT_EXECUTED = 126
_NOT_FOUND = 127
_LEFTOVER_SECONDS = 2.0
_CONTROL_SECONDS = 10.0
_MAX_ANSWER_BYTES = 64 * 1024


def run_agent(
    command: Sequence[str], *, agent: str, socket: Path, environment: Mapping[str, str]
) -> int:
    """Run ``command`` as ``agent`` and return its exit status (128 + n when signal n ended it).

    Args:
        command: program and arguments; the program is looked up in this process's ``PATH``.
        agent: the agent's name in the registry.
        socket: the authority's control socket.
        environment: what the child gets besides our own environment; ``SPIFFE_ENDPOINT_SOCKET``,
            ``REMIT_URL`` and ``REMIT_AUDIENCE`` come in here.

    Raises:
        ConfigError: there is no command, no such program, or this is not Linux.
        UnavailableError: the authority cannot be reached; nothing was executed.
        UnidentifiedError: the authority refused; nothing was executed.
    """
    program = _program(command)
    adopts = reaper()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    # Blocked from here, so that no signal falls between the fork and the loop that forwards it.
    signals = {*_FORWARDED, signal.SIGCHLD}
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(go_write)
        _child(
            program,
            command,
            {**os.environ, **environment},
            go=go_read,
            parent=parent,
            mask=old_mask,
        )
    os.close(go_read)
    try:
        # Another process of this uid cannot trace or read us, and so not speak in our place.
        _prctl(_PR_SET_DUMPABLE, 0)
        try:
            _register(socket, agent, child, adopts)
        except BaseException:
            os.close(go_write)  # the child reads the end of the pipe, and leaves
            os.waitpid(child, 0)
            _forget(socket, child)  # the answer may have been lost, and not the registration
            raise
        try:
            os.write(go_write, b"!")
        except BrokenPipeError:
            pass  # it was killed while it waited; its status says so below
        finally:
            os.close(go_write)
        status = _supervise(child, signals)
        _end_leftovers()
        _forget(socket, child)
        return status
    finally:
        _prctl(_PR_SET_DUMPABLE, 1)
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def reaper() -> int:
    """Return the pid that takes in orphans of ours, found out by leaving it one.

    The kernel tells nobody who is a subreaper.
    """
    heard, said = os.pipe2(os.O_CLOEXEC)
    waits, go = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            if os.fork() == 0:
                os.close(go)
                os.read(waits, 1)  # its parent has gone, and been waited for, when this returns
                os.write(said, str(os.getppid()).encode())
        finally:
            os._exit(0)
    for unused in (said, waits):
        os.close(unused)
    try:
        os.waitpid(child, 0)
        os.close(go)
        return int(os.read(heard, 32) or 0)
    finally:
        os.close(heard)


def _program(command: Sequence[str]) -> str:
    if sys.platform != "linux":
        raise ConfigError(
            "`remit run` needs Linux: other systems cannot name a process for certain"
        )
    if not command:
        raise ConfigError("there is no command to run")
    return program_of(command[0])


def _child(
    program: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    go: int,
    parent: int,
    mask: set[signal.Signals] | set[int],
) -> NoReturn:
    """Wait for the word, then become the agent; leave without a trace when it does not come."""
    status = _NOT_EXECUTED
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent or os.read(go, 1) != b"!":
            os._exit(status)
        for number in (*_FORWARDED, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.signal(
            signal.SIGPIPE, signal.SIG_DFL
        )  # Python ignores it, programs do not expect it
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execve(program, list(command), environment)  # noqa: S606  (it is what we are for)
    except FileNotFoundError:
        status = _NOT_FOUND
    except BaseException as error:  # noqa: BLE001  (nothing may escape into the parent's code)
        with suppress(OSError):
            os.write(2, f"remit run: `{program}` cannot be executed: {error}\n".encode())
    os._exit(status)


def _supervise(child: int, signals: set[signal.Signals]) -> int:
    """Forward signals and reap until ``child`` has ended; return its status."""
    while True:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == child:
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else 128 - code
        received = signal.sigwaitinfo(signals)
        if received.si_signo == signal.SIGCHLD:
            continue
        # A terminal sends its interrupt to the whole foreground group: the child has it already.
        if received.si_code <= 0 or os.getpgid(child) != os.getpgrp():
            with suppress(ProcessLookupError):
                os.kill(child, received.si_signo)


def _end_leftovers() -> None:
    """End what the agent left running: it would go on as nobody's.

    Only the kernel's word that there is no child ends this: a process that forks and exits without
    end is in no list for long enough to be seen in it.
    """
    deadline = time.monotonic() + _LEFTOVER_SECONDS
    number = signal.SIGTERM
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)


def _children() -> list[int]:
    me = os.getpid()
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if (found := process(pid)) is not None and found.parent == me]


class _Control(http.client.HTTPConnection):
    """HTTP to the authority's control socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("remit", timeout=_CONTROL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ask(path: Path, method: str, target: str, body: object = None) -> tuple[int, bytes]:
    connection = _Control(path)
    try:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        connection.request(method, target, body=data, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnavailableError(
            f"the authority cannot be reached at `{path}`: {reason}; is `remit up` running?"
        ) from error
    finally:
        connection.close()


def _register(path: Path, agent: str, pid: int, adopts: int) -> None:
    found = process(pid)
    if found is None:
        raise UnavailableError("the agent's process ended before it could be registered")
    body = {"agent": agent, "pid": pid, "start_time": found.start_time, "reaper": adopts}
    status, answer = _ask(path, "POST", "/processes", body)
    if status != http.client.CREATED:
        raise UnidentifiedError(
            f"the authority refused to run agent `{agent}`: {_sentence(status, answer)}"
        )


def _forget(path: Path, pid: int) -> None:
    # The authority also notices by itself that the process has ended.
    with suppress(RemitError):
        _ask(path, "DELETE", f"/processes/{pid}")


def _sentence(status: int, answer: bytes) -> str:
    """Return the refusal in the authority's words, on one line, or else its status."""
    try:
        said = json.loads(answer)
    except ValueError:
        said = None
    if isinstance(said, dict) and isinstance(said.get("error"), dict):
        said = said["error"]
    words = (
        [said[key] for key in ("detail", "message", "error") if key in said]
        if isinstance(said, dict)
        else []
    )
    first = next((word for word in words if isinstance(word, str)), f"status {status}")
    return "".join(c if c.isprintable() else " " for c in first)[:500]


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise ConfigError(f"prctl: {os.strerror(ctypes.get_errno())}")
