"""Routes of the catalogue: what upstreams offer, and a person's word on what changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, body_of, guarded, plain
from remit.api.callers import Callers
from remit.model.catalogue import Tool
from remit.policy.catalogue import Catalogue

Scan = Callable[[str], Awaitable[Sequence[Tool]]]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One catalogued target, ``upstream/name``."""

    target: str


class Upstream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One configured upstream."""

    upstream: str


def routes(catalogue: Catalogue, scan: Scan, callers: Callers) -> list[Route]:
    """Return the catalogue's routes."""

    async def listing(request: Request) -> Response:
        await callers.person(request)
        tools = catalogue.list(request.query_params.get("upstream"))
        return answer({"items": [plain(tool) for tool in tools], "next": None})

    async def accept(request: Request) -> Response:
        person = await callers.operator(request)
        wanted = await body_of(request, Target)
        return answer(await catalogue.accept(wanted.target, person.id))

    async def look(request: Request) -> Response:
        await callers.operator(request)
        tools = await scan((await body_of(request, Upstream)).upstream)
        return answer({"items": [plain(tool) for tool in tools], "next": None})

    return [
        Route("/catalog", guarded(listing), methods=["GET"]),
        Route("/catalog/accept", guarded(accept), methods=["POST"]),
        Route("/catalog/scan", guarded(look), methods=["POST"]),
    ]
