"""An upstream that is a command: streamable HTTP in front, standard input and output behind.

Each session of the 2025 era has a process of its own. The stateless requests of 2026-07-28 share
one a workload: never two workloads in one process, whose notifications name nobody. A process that
dies is started again when it is next needed, with growing pauses; a session that died is gone, as
the protocol has it (404), and its client begins another.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from remit.gateway.forward import UnreachableError
from remit.gateway.messages import GOVERNED, INVALID_REQUEST, METHOD_NOT_FOUND, peek, rpc_error
from remit.gateway.options import UpstreamOptions
from remit.gateway.pipe import Pipe
from remit.gateway.places import Places
from remit.gateway.process import Given, as_printed
from remit.gateway.reply import JSON, Headers
from remit.gateway.stdio_answers import Aside, Laned, Whole
from remit.gateway.stdio_session import SET_LEVEL, StdioSession, first_answer
from remit.gateway.upstream import Answer, Outgoing
from remit.gateway.wire import Message
from remit.model.errors import UpstreamError

log = structlog.get_logger()

_FIRST_PAUSE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class _Pause:
    """How long a workload waits for its next process, and until when."""

    seconds: float = 0.0
    until: float = 0.0


class StdioUpstream:
    """Starts, watches and restarts the processes of one command.

    ``clean`` takes every credential that is alive out of what is logged of a process's words.
    """

    def __init__(self, options: UpstreamOptions, clean: Callable[[str], str] = as_printed) -> None:
        self.options = options
        self._clean = clean
        self._sessions: dict[str, StdioSession] = {}
        self._places = Places()
        self._shared: dict[str, Pipe] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._watching: set[str] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._trouble: str | None = f"upstream `{options.name}` has not answered anything yet"
        # Each workload waits for its own processes: one that breaks them keeps nobody else out.
        self._pauses: dict[str, _Pause] = {}
        self._closed = False

    def health(self) -> str | None:
        """Return what went wrong with the last process, if anything did.

        None means that it answered something since it was last started.
        """
        pipes = (*self._shared.values(), *(each.pipe for each in self._sessions.values()))
        if self._trouble is None and any(not pipe.alive for pipe in pipes):
            # It is dead, and its output is not read to the end yet.
            return self._ended_words()
        return self._trouble

    async def retire(self, owner: str) -> None:
        """End the process that one owner's stateless requests share."""
        pipe = self._shared.pop(owner, None)
        if pipe is not None:
            self._proven(pipe)
            await pipe.stop()

    async def close(self) -> None:
        """End every process, and wait for their ends."""
        self._closed = True
        pipes = [*self._shared.values(), *(each.pipe for each in self._sessions.values())]
        stops = (pipe.stop() for pipe in pipes)
        await asyncio.gather(self._places.close(), *stops, *self._stopping)

    async def let_go(self, lease: str) -> None:
        """End every process that holds the credential of a lease, and wait for its end."""
        await self._places.let_go(lease)

    async def send(self, request: Outgoing) -> Answer:
        """Carry one HTTP request to a process.

        Raises:
            UnreachableError: no process could be had.
            UpstreamError: it fell silent, or ended.
        """
        self._sweep()
        message = request.message
        if message is not None and message.modern:
            return await self._stateless(request, message)
        if message is not None and message.method == "initialize":
            return await self._initialize(request, message)
        session = self._sessions.get(request.session or "")
        if session is None or session.owner != request.owner or not session.pipe.alive:
            status, words = (400, "a session is needed: initialize first")
            if request.session is not None:
                status, words = (404, "session not found")
            return Whole(status, JSON, rpc_error(None, INVALID_REQUEST, words))
        return await self._in_session(request, session)

    async def _in_session(self, request: Outgoing, session: StdioSession) -> Answer:
        headers: Headers = [(b"mcp-session-id", session.id.encode("latin-1"))]
        message = request.message
        if request.method == "DELETE":
            self._sessions.pop(session.id, None)
            self._stop(session.pipe)
            self._soon(self._places.leave(session.id))
            return Whole(200, [*JSON, *headers], b"")
        if message is None:
            return self._aside(session.id, session.pipe, headers)
        if message.kind != "request":
            await session.tell(message, self._places.in_session(session.id))
            return Whole(202, headers, b"")
        if message.method == SET_LEVEL:
            await session.set_level(message, self._places.in_session(session.id))
        pipe = await self._of_lease(request, message, session) or session.pipe
        return await self._ask(pipe, message, headers, quiet=request.quiet)

    async def _of_lease(
        self, request: Outgoing, message: Message, session: StdioSession | None
    ) -> Pipe | None:
        """Return the process that has a governed call's credential, where one is to have it.

        Raises:
            UnreachableError: there is none, and no room for it, or it does not start.
        """
        inject = self.options.inject
        if not inject.environment or message.method not in GOVERNED:
            return None
        credential = request.credential
        if credential is None or not credential.lease:
            raise UnreachableError(
                f"upstream `{self.options.name}` got no credential to start with"
            )
        try:
            environment = inject.environment_for(credential)
        except UpstreamError as error:
            raise UnreachableError(str(error)) from error
        secrets = (*credential.secrets, *environment.values())
        given = Given(environment=environment, secrets=secrets, clean=self._clean)
        return await self._places.at(
            credential.lease,
            request.owner,
            session.id if session is not None else None,
            lambda: self._begin(request.owner, given, session),
        )

    async def _begin(self, owner: str, given: Given, session: StdioSession | None) -> Pipe:
        """Start a process that has a credential; in a session, open it as its client did."""
        pipe = await self._start(owner, shared=session is None, given=given)
        if session is not None:
            try:
                await session.open(pipe, self.options.start_seconds, self.options.name)
            except BaseException as error:
                if not isinstance(error, asyncio.CancelledError):
                    self._unexpected(pipe)
                await pipe.stop(at_once=True)
                raise
            self._proven(pipe)
        return pipe

    async def _stateless(self, request: Outgoing, message: Message) -> Answer:
        if message.kind == "response":
            words = "a response is nothing that a stateless server waits for"
            return Whole(400, JSON, rpc_error(None, INVALID_REQUEST, words))
        if message.kind == "notification":
            # There is none that a stateless request could be told by (basic/transports).
            return Whole(202, [], b"")
        if message.method == "initialize":
            # It would settle the process on the other era; the newer one has no such method.
            words = "method not found: a stateless request needs no initialize"
            return Whole(404, JSON, rpc_error(message.id, METHOD_NOT_FOUND, words))
        of_lease = await self._of_lease(request, message, None)
        if of_lease is not None:
            return await self._ask(of_lease, message, [], quiet=request.quiet)
        lock = self._starting.setdefault(request.owner, asyncio.Lock())
        async with lock:
            pipe = self._shared.get(request.owner)
            if pipe is None or not pipe.alive:
                self._shared.pop(request.owner, None)
                pipe = await self._start(request.owner, shared=True)
                self._shared[request.owner] = pipe
        return await self._ask(pipe, message, [], quiet=request.quiet)

    async def _initialize(self, request: Outgoing, message: Message) -> Answer:
        pipe = await self._start(request.owner, shared=False)
        session = secrets.token_hex(16)
        self._sessions[session] = StdioSession(session, request.owner, pipe, message)
        header = (b"mcp-session-id", session.encode())
        try:
            async with asyncio.timeout(self.options.start_seconds):
                line = await first_answer(pipe, message)
        except (TimeoutError, UpstreamError) as error:
            self._sessions.pop(session, None)
            seconds = self.options.start_seconds
            if isinstance(error, TimeoutError):
                self._trouble = f"upstream `{self.options.name}` did not start within {seconds:g} s"
            else:
                self._unexpected(pipe)
            self._stop(pipe)
            if isinstance(error, TimeoutError):
                raise UpstreamError(self._trouble) from error
            raise
        except BaseException:
            self._sessions.pop(session, None)
            self._stop(pipe)
            raise
        self._proven(pipe)
        if not peek(line).result:
            self._sessions.pop(session, None)
            self._stop(pipe)
            return Whole(200, JSON, line)
        return Whole(200, [*JSON, header], line)

    async def _ask(self, pipe: Pipe, message: Message, headers: Headers, *, quiet: bool) -> Answer:
        lane = await pipe.ask(message)
        endless = quiet or message.method in GOVERNED
        seconds = None if endless else self.options.answer_seconds
        answer = Laned(pipe, lane, headers, seconds, self.options.name, modern=message.modern)
        try:
            await answer.begin()
        except BaseException:
            await answer.close()
            raise
        self._proven(pipe)
        return answer

    def _proven(self, pipe: Pipe) -> None:
        if pipe.answered and pipe.alive:
            self._trouble = None
            self._pauses.pop(pipe.owner, None)

    def _aside(self, session: str, pipe: Pipe, headers: Headers) -> Answer:
        if session in self._watching:
            words = "only one such stream is allowed per session"
            return Whole(409, [*JSON, *headers], rpc_error(None, INVALID_REQUEST, words))
        self._watching.add(session)
        return Aside(pipe, headers, lambda: self._watching.discard(session))

    async def _start(self, owner: str, *, shared: bool, given: Given | None = None) -> Pipe:
        now = asyncio.get_running_loop().time()
        if self._closed:
            raise UnreachableError(f"upstream `{self.options.name}` is being stopped")
        pause = self._pauses.get(owner)
        if pause is not None and now < pause.until:
            wait = pause.until - now
            raise UnreachableError(
                f"upstream `{self.options.name}` keeps ending; it is started again in {wait:.1f} s"
            )
        self._require_room(owner, taken=given is not None)
        pipe = Pipe(self.options, owner, shared=shared, given=given or Given(clean=self._clean))
        pipe.on_end = self._ended
        starting = asyncio.ensure_future(pipe.start())
        try:
            await asyncio.shield(starting)
        except UnreachableError as error:
            self._back_off(owner, str(error))
            raise
        except asyncio.CancelledError:
            # Half a start would leave a process that nobody knows of.
            with contextlib.suppress(UnreachableError):
                await starting
            await pipe.stop(at_once=True)
            raise
        return pipe

    def _require_room(self, owner: str, *, taken: bool) -> None:
        """Make room for one more process: an idle one that no session has gives way.

        ``taken`` says that the new process is counted among the places already.

        Raises:
            UnreachableError: there is none.
        """
        name = self.options.name
        mine = sum(each.owner == owner for each in self._sessions.values())
        mine += self._places.of(owner) - taken
        full = mine >= self.options.max_processes_per_agent
        if full and not self._give_way(owner):
            raise UnreachableError(
                f"upstream `{name}` runs {mine} processes for this agent already: "
                "end one of its sessions or tasks"
            )
        every = len(self._shared) + len(self._sessions) + len(self._places) - taken
        if not full and every >= self.options.max_processes and not self._give_way(None):
            raise UnreachableError(f"upstream `{name}` has no process to spare: try again later")

    def _give_way(self, owner: str | None) -> bool:
        """End the process that was idle for the longest, of one owner or of all."""
        idle: list[tuple[float, Callable[[], object]]] = [
            (touched, partial(self._places.end, place))
            for touched, place in self._places.idle()
            if place.session is None and owner in {None, place.owner}
        ]
        if owner is None:
            idle += [
                (pipe.touched, partial(self._stop_shared, each))
                for each, pipe in self._shared.items()
                if pipe.idle
            ]
        if not idle:
            return False
        min(idle, key=lambda each: each[0])[1]()
        return True

    def _stop_shared(self, owner: str) -> None:
        self._stop(self._shared.pop(owner))

    def _ended(self, pipe: Pipe) -> None:
        """Forget a process; one that nobody asked to end is trouble, whoever it served."""
        gone = [each for each in self._sessions.values() if each.pipe is pipe]
        for session in gone:
            del self._sessions[session.id]
            self._soon(self._places.leave(session.id))
        for session in self._sessions.values():
            session.asked.forget(pipe)
        self._places.ended(pipe)
        self._shared = {k: v for k, v in self._shared.items() if v is not pipe}
        if not pipe.stopping:
            self._unexpected(pipe)

    def _unexpected(self, pipe: Pipe) -> None:
        if pipe.counted:
            return
        pipe.counted = True
        if pipe.answered:
            self._trouble = self._ended_words()
        else:
            self._back_off(
                pipe.owner, f"upstream `{self.options.name}` ended before it answered anything"
            )

    def _ended_words(self) -> str:
        return f"upstream `{self.options.name}` ended and is started when needed"

    def _back_off(self, owner: str, why: str) -> None:
        self._trouble = why
        before = self._pauses.get(owner, _Pause())
        seconds = min(max(_FIRST_PAUSE_SECONDS, before.seconds * 2), self.options.restart_seconds)
        self._pauses[owner] = _Pause(seconds, asyncio.get_running_loop().time() + seconds)

    def _sweep(self) -> None:
        oldest = asyncio.get_running_loop().time() - self.options.process_idle_seconds
        for owner, pipe in list(self._shared.items()):
            if pipe.idle and pipe.touched < oldest:
                self._stop_shared(owner)
        for touched, place in self._places.idle():
            if touched < oldest:
                self._places.end(place)

    def _stop(self, pipe: Pipe) -> None:
        self._soon(pipe.stop())

    def _soon(self, ending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(ending)
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
