"""Routes of sealed keys: the owner's alone, over the control socket, and no way back to a value."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, body_of, guarded, plain
from remit.api.callers import Callers, ForbiddenError
from remit.credentials.sealed_keys import SealedKey, SealedKeys
from remit.model.errors import NotFoundError
from remit.model.subject import Person


class Sealing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `POST /credentials` takes."""

    name: str
    secret: str


class Rotating(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `POST /credentials/{name}/rotate` takes."""

    secret: str


def routes(keys: SealedKeys, callers: Callers, clock: Callable[[], datetime]) -> list[Route]:
    """Return the routes of sealed keys."""

    async def owner(request: Request) -> Person:
        person = await callers.person(request)
        if callers.owner(request) is None:
            raise ForbiddenError("sealed keys are the owner's, over the control socket alone")
        return person

    def seen(key: SealedKey) -> dict[str, Any]:
        return view(key, keys.limits.get(key.name), clock())

    async def listing(request: Request) -> Response:
        await owner(request)
        items = [seen(key) for key in keys.keys]
        missing = sorted(keys.limits.keys() - {key.name for key in keys.keys})
        return answer({"items": items, "missing": missing, "next": None})

    async def seal(request: Request) -> Response:
        person = await owner(request)
        wanted = await body_of(request, Sealing)
        return answer(seen(await keys.seal(wanted.name, wanted.secret, person.id)), 201)

    async def change(request: Request) -> Response:
        person = await owner(request)
        name, verb = request.path_params["name"], request.path_params["verb"]
        if verb == "rotate":
            wanted = await body_of(request, Rotating)
            return answer(seen(await keys.rotate(name, wanted.secret, person.id)))
        if verb == "remove":
            await keys.remove(name, person.id)
            return answer({"removed": name})
        raise NotFoundError(f"a sealed key can be rotated or removed, not `{verb}`")

    return [
        Route("/credentials", guarded(listing), methods=["GET"]),
        Route("/credentials", guarded(seal), methods=["POST"]),
        Route("/credentials/{name}/{verb}", guarded(change), methods=["POST"]),
    ]


def view(key: SealedKey, limit: timedelta | None, now: datetime) -> dict[str, Any]:
    """Return a key as the API shows it: how old it is, and how old it may become, in days."""
    return {
        **plain(key),
        "age_days": key.age(now).days,
        "max_age_days": None if limit is None else limit / timedelta(days=1),
        "aged": limit is not None and key.age(now) > limit,
    }
