"""Puts the list of the revoked where the target reads it, and never an older one over a newer one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from remit.credentials.certificates.files import write_whole
from remit.model.errors import BrokerError

_KEPT = ("PATH", "HOME", "LANG", "SSH_AUTH_SOCK", "TMPDIR")


class ListOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a list goes: a file, replaced in one step, and then a command that takes it on stdin."""

    file: str | None = None
    command: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0


async def run_command(
    command: Sequence[str], data: bytes, seconds: float, extra: Mapping[str, str] | None = None
) -> None:
    """Run an operator's command to its end, within a time.

    Raises:
        BrokerError: it cannot be started, fails, or takes longer. What it said is not repeated.
    """
    name = Path(command[0]).name
    environment = {key: os.environ[key] for key in _KEPT if key in os.environ} | dict(extra or {})
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise BrokerError(f"`{name}` cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                await process.communicate(data)
            code = await process.wait()
    except TimeoutError as error:
        raise BrokerError(f"`{name}` took longer than {seconds:g} seconds") from error
    finally:
        await end(process)
    if code != 0:
        raise BrokerError(f"`{name}` ended with {code}: run it by hand to see why")


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill a process that leads a session of its own, with its children, and reap it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


class Publisher:
    """One list at one place."""

    def __init__(
        self,
        options: ListOptions,
        file: Path | None,
        make: Callable[[], bytes],
        *,
        stale_after: float | None = None,
    ) -> None:
        """Publish what ``make`` returns; it may block, and is called in a thread.

        Args:
            options: the operator's.
            file: the options' file, made absolute.
            make: makes the list of this moment.
            stale_after: seconds after which a list is made anew though nothing changed.
        """
        self._command = options.command
        self._seconds = options.seconds
        self._file = file
        self._make = make
        self._stale_after = stale_after
        self._lock = asyncio.Lock()
        self._writing = threading.Lock()
        self._asked = self._done = self._written = 0
        self._last: bytes | None = None
        self._at = 0.0

    def begin(self) -> None:
        """Put a list where there is none yet: without its file a target may let nobody in.

        What fails here is said by the first :meth:`ensure`.
        """
        with contextlib.suppress(OSError, BrokerError):
            if self._file is not None and not self._file.exists():
                write_whole(self._file, self._make(), mode=0o644)

    async def publish(self) -> None:
        """Put the present list in place. Callers that wait together share one.

        Raises:
            BrokerError: the list is not in place.
        """
        self._asked += 1
        wanted = self._asked
        async with self._lock:
            if self._done < wanted:
                await self._put(self._asked)

    async def ensure(self) -> None:
        """Put the present list in place unless the last one is there still.

        Raises:
            BrokerError: the list is not in place.
        """
        if not await asyncio.to_thread(self._stands):
            await self.publish()

    def _stands(self) -> bool:
        if self._last is None:
            return False
        if self._stale_after is not None and time.monotonic() - self._at > self._stale_after:
            return False
        try:
            return self._file is None or self._file.read_bytes() == self._last
        except OSError:
            return False

    async def _put(self, covering: int) -> None:
        self._last = None
        data = await asyncio.to_thread(self._make)
        if self._file is not None:
            try:
                async with asyncio.timeout(self._seconds):
                    await asyncio.to_thread(self._write, self._file, covering, data)
            except OSError as error:  # TimeoutError is one
                raise BrokerError(
                    f"the list of revoked certificates `{self._file}` cannot be written: "
                    f"{error.strerror or 'it took too long'}"
                ) from error
        if self._command:
            await run_command(self._command, data, self._seconds)
        self._done, self._last, self._at = covering, data, time.monotonic()

    def _write(self, file: Path, covering: int, data: bytes) -> None:
        with self._writing:
            # A write that was given up on may come last: it must not undo a later one.
            if covering >= self._written:
                write_whole(file, data, mode=0o644)
                self._written = covering
