"""Is it alive, is it ready, how is it doing: for probes and for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer
from remit.model.contact import Contact
from remit.model.errors import RemitError

Checks = Mapping[str, Callable[[], str | None]]
"""One a part: None when it works, else one sentence that says what is wrong."""


Seen = Mapping[str, Callable[[], Mapping[str, Contact]]]
"""By a heading, what is known from use of each thing outside that some calls need and others not."""


def routes(
    checks: Checks,
    metrics: CollectorRegistry,
    seen: Seen | None = None,
    owner: Callable[[Request], object | None] = lambda _: None,
) -> list[Route]:
    """Return the probes' routes. They tell no secret, and want no token.

    What is ``seen`` is shown and decides nothing: one target that is down refuses the calls that
    need it, and taking all others away as well would help nobody. What went wrong there may quote a
    call's arguments and the target's address: ``owner`` says who is told more than when.
    """

    def known(request: Request, contacts: Mapping[str, Contact]) -> Mapping[str, Contact]:
        try:
            if owner(request) is not None:
                return contacts
        except RemitError:
            pass  # somebody else on the owner's socket
        return {name: replace(each, last_error=None) for name, each in contacts.items()}

    async def alive(request: Request) -> Response:  # noqa: ARG001 - a route takes its request
        return answer({"status": "alive"})

    async def ready(request: Request) -> Response:
        parts = {name: check() for name, check in checks.items()}
        fine = all(trouble is None for trouble in parts.values())
        return answer(
            {
                "status": "ready" if fine else "not ready",
                "parts": {name: trouble or "ready" for name, trouble in parts.items()},
                **{heading: known(request, of()) for heading, of in (seen or {}).items()},
            },
            200 if fine else 503,
        )

    async def numbers(request: Request) -> Response:  # noqa: ARG001 - a route takes its request
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/healthz", alive),
        Route("/readyz", ready),
        Route("/metrics", numbers),
    ]
