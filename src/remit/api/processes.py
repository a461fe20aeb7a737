"""Routes by which `remit run` names an agent's process before it executes; the socket only."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, body_of, guarded, number
from remit.api.callers import Callers
from remit.api.peers import peer_of
from remit.identity.registry import Registry
from remit.identity.workload_api.processes import ProcessBook
from remit.model.errors import ConflictError, InputError, NotFoundError
from remit.model.subject import AgentState


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process that is about to become an agent; ``start_time`` in clock ticks since boot.

    ``reaper`` is the pid that takes in the orphans of whoever asks, if that is known.
    """

    agent: str
    pid: int
    start_time: int
    reaper: int | None = None


def routes(book: ProcessBook, registry: Registry, callers: Callers) -> list[Route]:
    """Return the process book's routes."""

    async def register(request: Request) -> Response:
        peer = peer_of(request.scope)
        await callers.person(request)
        wanted = await body_of(request, Process)
        agent = registry.get(wanted.agent)
        if agent is None:
            raise NotFoundError(
                f"no agent `{wanted.agent}` is registered: `remit agent register {wanted.agent}`"
            )
        if agent.state is not AgentState.ACTIVE:
            raise ConflictError(f"agent `{wanted.agent}` is {agent.state.value}")
        book.register(
            wanted.agent,
            wanted.pid,
            wanted.start_time,
            by_uid=peer.uid,
            by_pid=peer.pid,
            reaper=wanted.reaper,
        )
        return answer({"agent": wanted.agent, "pid": wanted.pid}, 201)

    async def forget(request: Request) -> Response:
        peer = peer_of(request.scope)
        await callers.person(request)
        text = request.path_params["pid"]
        if not number(text):
            raise InputError("a process is named by its pid")
        book.forget(int(text), by_uid=peer.uid)
        return answer({"pid": int(text)})

    return [
        Route("/processes", guarded(register), methods=["POST"]),
        Route("/processes/{pid}", guarded(forget), methods=["DELETE"]),
    ]
