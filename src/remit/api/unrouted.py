"""Answers for what no route answers: unknown paths, wrong methods, a part that broke."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from remit.api.answers import answer
from remit.api.refusals import Refusals

_WRONG_METHOD = 405
_CODES = {404: "not_found", 405: "method_not_allowed"}
_WORDS = {404: "there is no such route", 405: "this route does not take that method"}


def app_of(routes: list[BaseRoute], refusals: Refusals | None = None) -> Starlette:
    """Return the routes as an application that answers everything else as JSON, too.

    ``refusals`` notes what the routes refuse.
    """
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _broken})
    # A redirect would name the Host header's host, and a client that follows it loses its body.
    app.router.redirect_slashes = False
    app.state.refusals = refusals
    return app


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = _CODES.get(status, "bad_request")
    told = answer({"error": {"code": code, "message": _WORDS.get(status, "refused")}}, status)
    if status == _WRONG_METHOD:
        told.headers["allow"] = ", ".join(sorted(_methods(request)))
    return told


def _methods(request: Request) -> set[str]:
    """Return the methods of every route with this path: one path may have a route for each."""
    routes = request.app.routes
    return {
        method
        for route in routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


async def _broken(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's shape
    return answer({"error": {"code": "internal", "message": "remit failed inside"}}, 500)
