"""One upstream process: its pipes, its log, its end.

It runs in a session of its own, so that all it started can be ended with it, and sees no more of
our environment than it needs. When Remit dies its standard input closes, which MCP servers take as
their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from remit.gateway.forward import UnreachableError
from remit.gateway.options import UpstreamOptions
from remit.gateway.stderr_log import StderrLog

log = structlog.get_logger()

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
_LOG_BYTES = 65_536


def as_printed(text: str) -> str:
    """Take nothing out of a text."""
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What one process gets that others of its command do not.

    ``secrets`` never reach the log, and ``clean`` takes out of it whatever else is alive.
    """

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    clean: Callable[[str], str] = as_printed


NOTHING = Given()


class _Leader(asyncio.subprocess.SubprocessStreamProtocol):
    """Ends what a process started when it ends itself: its children may hold its output open."""

    leader: int | None = None

    def process_exited(self) -> None:
        super().process_exited()
        if self.leader is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.leader, signal.SIGKILL)

    def lead(self, pid: int, *, ended: bool) -> None:
        """Take note of the group, and end it where its leader was faster than us."""
        self.leader = pid
        if ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


class UpstreamProcess:
    """A running command that speaks MCP over its standard input and output."""

    def __init__(self, process: asyncio.subprocess.Process, options: UpstreamOptions) -> None:
        self._process = process
        self._options = options
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @classmethod
    async def start(
        cls,
        options: UpstreamOptions,
        on_line: Callable[[bytes], None],
        on_end: Callable[[int | None], None],
        given: Given = NOTHING,
    ) -> UpstreamProcess:
        """Start the command; ``on_line`` gets each line it prints, ``on_end`` its exit code, once.

        ``given`` is what this process alone gets, over what the operator configured for all.

        Raises:
            UnreachableError: it cannot be started.
        """
        inherited = {k: os.environ[k] for k in _INHERITED if k in os.environ}
        environment = inherited | dict(options.env) | dict(given.environment)
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: _Leader(limit=options.max_answer_bytes, loop=loop),
                *options.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                cwd=options.cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UnreachableError(
                f"upstream `{options.name}` cannot be started: {str(reason).lower()}"
            ) from error
        process = asyncio.subprocess.Process(transport, protocol, loop)
        protocol.lead(process.pid, ended=process.returncode is not None)
        made = cls(process, options)
        made._tasks = [
            asyncio.create_task(made._read(on_line, on_end)),
            asyncio.create_task(made._listen(given)),
        ]
        log.info("upstream started", upstream=options.name, pid=process.pid)
        return made

    @property
    def alive(self) -> bool:
        """Whether it still runs and is wanted."""
        return self._process.returncode is None and not self._stopping

    @property
    def pid(self) -> int:
        """Its process id, which is its group's as well."""
        return self._process.pid

    async def write(self, line: bytes) -> None:
        """Send one message, without a line break in it.

        Raises:
            UnreachableError: the process does not listen any more.
        """
        stdin = self._process.stdin
        if stdin is None or not self.alive:
            raise UnreachableError(f"upstream `{self._options.name}` has ended")
        try:
            stdin.write(line + b"\n")
            await stdin.drain()
        except (OSError, RuntimeError) as error:
            raise UnreachableError(f"upstream `{self._options.name}` has ended") from error

    async def stop(self, *, at_once: bool = False) -> None:
        """End it and everything it started: close its input, ask, then insist.

        ``at_once`` asks without waiting for what the closed input does.
        """
        self._stopping = True
        process, patience = self._process, self._options.stop_seconds
        if process.stdin is not None:
            process.stdin.close()
        steps = (None, signal.SIGTERM, signal.SIGKILL)
        for insist in steps[1:] if at_once else steps:
            if insist is not None:
                self._signal(insist)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), patience)
                break
        self._signal(signal.SIGKILL)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the group: its leader may be gone while a child of it still runs."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _read(
        self, on_line: Callable[[bytes], None], on_end: Callable[[int | None], None]
    ) -> None:
        stdout = self._process.stdout
        name = self._options.name
        try:
            while stdout is not None and (line := await stdout.readline()):
                if line.strip():
                    on_line(line.strip())
        except ValueError:
            log.warning("upstream sent too long a line and is ended", upstream=name)
        except Exception:
            log.exception("upstream sent what broke its reader, and is ended", upstream=name)
        self._signal(signal.SIGKILL)
        code = await self._process.wait()
        level = log.info if self._stopping else log.warning
        level("upstream ended", upstream=name, pid=self._process.pid, code=code)
        on_end(code)

    async def _listen(self, given: Given) -> None:
        """Turn what it says on standard error into log lines."""
        stderr = self._process.stderr
        environment = {**self._options.env, **given.environment}
        now = asyncio.get_running_loop().time
        said = StderrLog(self._options.name, environment, now, given.secrets, given.clean)
        while stderr is not None and (chunk := await stderr.read(_LOG_BYTES)):
            said.feed(chunk)
        said.end()
