"""Routes that rotate the trust domain's keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, body_of, guarded
from remit.api.callers import Callers

Rotate = Callable[[bool, str], Awaitable[int]]
"""Rotates (compromised, by whom) and returns the bundle's new sequence number."""


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``compromised`` ends everything that the old keys signed, running tasks included."""

    compromised: bool = False


def routes(rotate: Rotate, callers: Callers) -> list[Route]:
    """Return the routes of the trust domain's keys."""

    async def turn(request: Request) -> Response:
        person = await callers.operator(request)
        wanted = await body_of(request, Rotation)
        return answer({"spiffe_sequence": await rotate(wanted.compromised, person.id)})

    return [Route("/keys/rotate", guarded(turn), methods=["POST"])]
