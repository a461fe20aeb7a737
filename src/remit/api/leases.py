"""Routes of the lease book: what may be alive, one lease whole, taking one back, asking targets."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, guarded, plain
from remit.api.callers import Callers
from remit.credentials.census import survey, verify_none
from remit.credentials.port import LeaseStore
from remit.model.errors import NotFoundError
from remit.model.lease import Lease
from remit.spine import Authority


def routes(authority: Authority, store: LeaseStore, callers: Callers) -> list[Route]:
    """Return the lease book's routes; a sealed value is on none of them."""
    leases, tasks = authority.leases, authority.tasks

    async def open_leases(request: Request) -> Response:
        await callers.person(request)
        items = [view(lease) for lease in leases.open_leases()]
        return answer({"items": items, "next": None})

    async def show(request: Request) -> Response:
        await callers.person(request)
        name = request.path_params["id"]
        lease = next((each for each in leases.open_leases() if each.id == name), None)
        lease = lease or await store.get(name)
        if lease is None:
            raise NotFoundError(f"the lease book knows no `{name}`: see `remit lease list`")
        return answer(view(lease))

    async def revoke(request: Request) -> Response:
        person = await callers.operator(request)
        return answer(view(await leases.revoke(request.path_params["id"], person.id)))

    async def standing(request: Request) -> Response:
        await callers.person(request)
        report = await verify_none(leases.brokers, store, tasks.is_open, authority.clock())
        for each in report.asked:
            leases.contacts.noted(each.broker, each.trouble)
        return answer(
            {
                "none_stands": report.none_stands,
                "asked": [plain(each) for each in report.asked],
                "items": [plain(each) for each in report.findings],
            }
        )

    async def targets(request: Request) -> Response:
        await callers.person(request)
        found = await survey(leases.brokers)
        for each in found:
            leases.contacts.noted(each.broker, each.trouble)
        return answer({"items": [plain(each) for each in found], "next": None})

    return [
        Route("/leases", guarded(open_leases), methods=["GET"]),
        Route("/leases/standing", guarded(standing), methods=["GET"]),
        Route("/leases/targets", guarded(targets), methods=["GET"]),
        Route("/leases/{id}", guarded(show), methods=["GET"]),
        Route("/leases/{id}/revoke", guarded(revoke), methods=["POST"]),
    ]


def view(lease: Lease) -> dict[str, object]:
    """Return a lease as people see it."""
    shown: dict[str, object] = plain(lease)
    shown.pop("sealed", None)
    return shown
