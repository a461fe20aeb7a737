"""Routes of the agent registry, and of the processes that `remit run` starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, body_of, guarded, plain
from remit.api.callers import Callers
from remit.identity.registry import Registry
from remit.model.errors import NotFoundError
from remit.model.subject import Agent, Environment


class Registration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `POST /agents` takes."""

    name: str
    owner: str | None = None
    purpose: str = ""
    environment: Environment = Environment.DEV
    autonomy: int = 1
    templates: tuple[str, ...] = ()
    gateway_templates: tuple[str, ...] = ()
    max_depth: int = 4


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `PATCH /agents/{name}` takes; what is left out stays as it is."""

    owner: str | None = None
    purpose: str | None = None
    autonomy: int | None = None
    templates: tuple[str, ...] | None = None
    gateway_templates: tuple[str, ...] | None = None
    max_depth: int | None = None


def routes(registry: Registry, callers: Callers, changed: Callable[[], None]) -> list[Route]:
    """Return the registry's routes; ``changed`` is told after every change."""

    async def register(request: Request) -> Response:
        person = await callers.operator(request)
        wanted = await body_of(request, Registration)
        agent = await registry.register(
            wanted.name,
            owner=wanted.owner or person.id,
            purpose=wanted.purpose,
            environment=wanted.environment,
            autonomy=wanted.autonomy,
            templates=wanted.templates,
            gateway_templates=wanted.gateway_templates,
            max_depth=wanted.max_depth,
            by=person.id,
        )
        changed()
        return answer(view(agent), 201)

    async def listing(request: Request) -> Response:
        await callers.person(request)
        return answer({"items": [view(agent) for agent in registry.list()], "next": None})

    async def show(request: Request) -> Response:
        await callers.person(request)
        name = request.path_params["name"]
        agent = registry.get(name)
        if agent is None:
            raise NotFoundError(f"no agent `{name}` is registered: see `remit agent list`")
        return answer(view(agent))

    async def update(request: Request) -> Response:
        person = await callers.operator(request)
        wanted = await body_of(request, Change)
        given = {k: v for k, v in msgspec.structs.asdict(wanted).items() if v is not None}
        agent = await registry.update(request.path_params["name"], by=person.id, **given)
        changed()
        return answer(view(agent))

    async def move(request: Request) -> Response:
        person = await callers.operator(request)
        name, verb = request.path_params["name"], request.path_params["verb"]
        steps = {
            "suspend": registry.suspend,
            "resume": registry.resume,
            "retire": registry.retire,
        }
        if verb not in steps:
            raise NotFoundError(f"an agent can be suspended, resumed or retired, not `{verb}`")
        agent = await steps[verb](name, person.id)
        changed()
        return answer(view(agent))

    return [
        Route("/agents", guarded(register), methods=["POST"]),
        Route("/agents", guarded(listing), methods=["GET"]),
        Route("/agents/{name}", guarded(show), methods=["GET"]),
        Route("/agents/{name}", guarded(update), methods=["PATCH"]),
        Route("/agents/{name}/{verb}", guarded(move), methods=["POST"]),
    ]


def view(agent: Agent) -> dict[str, Any]:
    """Return an agent as the API shows it: its SPIFFE ID as one text."""
    return {**plain(agent), "spiffe_id": str(agent.spiffe_id)}
