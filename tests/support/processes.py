"""Real processes for tests: free ports, waiting until they answer, and an end that always comes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05


def free_port() -> int:
    """Return a TCP port of loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Return whether something accepts connections on a loopback port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


class Started:
    """One running process, whose output is kept in a file."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self.log = log

    def said(self) -> str:
        """Return everything the process has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, ready: object, what: str, seconds: float = START_SECONDS) -> None:
        """Wait until ``ready()`` is true.

        Raises:
            AssertionError: the process ended first, or the time is over; with its output.
        """
        end = time.monotonic() + seconds
        while not ready():  # type: ignore[operator]
            code = self.popen.poll()
            assert code is None, f"{what}: the process ended with {code}:\n{self.said()}"
            assert time.monotonic() < end, f"{what}: not within {seconds:g} s:\n{self.said()}"
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """End it at once, as a crash does, and reap it."""
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        """Ask it to end, insist after STOP_SECONDS, and return its exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._kill_group()
        self._kill_group()
        return self.popen.wait()

    def _kill_group(self) -> None:
        """Take what the process left behind with it; it leads its own group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    cwd: Path | None = None,
) -> Iterator[Started]:
    """Run a command while the block runs, waiting until it listens on ``port`` if given.

    ``env`` is added to this process's environment.
    """
    with log.open("wb") as out:
        popen = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    started = Started(popen, log)
    try:
        if port is not None:
            started.wait_for(lambda: listens(port), f"listening on port {port}")
        yield started
    finally:
        started.stop()


def python(*arguments: str | Path) -> list[str | Path]:
    """Return a command that runs this interpreter."""
    return [sys.executable, *arguments]


def remit(*arguments: str | Path) -> list[str | Path]:
    """Return a command that runs this tree's ``remit``."""
    return [Path(sys.executable).with_name("remit"), *arguments]
