"""Routes that say how the authority stands: keys, log, policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, guarded
from remit.api.callers import Callers


def routes(
    status: Callable[[], dict[str, Any]],
    bundle: Callable[[], bytes],
    callers: Callers,
) -> list[Route]:
    """Return the routes; the trust bundle is public, the rest is a person's."""

    async def stand(request: Request) -> Response:
        await callers.person(request)
        return answer(status())

    async def trust_bundle(request: Request) -> Response:  # noqa: ARG001 - a route takes its request
        return Response(bundle(), media_type="application/json")

    return [
        Route("/status", guarded(stand), methods=["GET"]),
        Route("/.well-known/spiffe-bundle", guarded(trust_bundle), methods=["GET"]),
    ]
