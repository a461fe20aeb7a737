"""Routes of the approval desk: a person's yes or no, over a channel that agents cannot reach."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, body_of, guarded, limit_of, page
from remit.api.callers import Callers
from remit.approvals.desk import ApprovalDesk
from remit.model.approval import ApprovalState
from remit.model.errors import InputError, NotFoundError


class Comment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why, in the approver's words."""

    comment: str = ""


def routes(desk: ApprovalDesk, callers: Callers) -> list[Route]:
    """Return the approval desk's routes."""

    async def listing(request: Request) -> Response:
        await callers.person(request)
        state = request.query_params.get("state")
        if state is not None and state not in set(ApprovalState):
            raise InputError(f"`state` is one of {', '.join(ApprovalState)}, not `{state[:20]}`")
        limit = limit_of(request)
        found = await desk.list(
            state=ApprovalState(state) if state else None,
            limit=limit,
            after=request.query_params.get("after"),
        )
        return page(found, lambda approval: str(approval.id), limit)

    async def show(request: Request) -> Response:
        await callers.person(request)
        return answer(await desk.get(request.path_params["id"]))

    async def decide(request: Request) -> Response:
        person = await callers.person(request)
        verb = request.path_params["verb"]
        if verb not in {"approve", "deny"}:
            raise NotFoundError(f"an approval can be approved or denied, not `{verb}`")
        comment = (await body_of(request, Comment)).comment
        say = desk.approve if verb == "approve" else desk.deny
        return answer(await say(request.path_params["id"], person, comment))

    return [
        Route("/approvals", guarded(listing), methods=["GET"]),
        Route("/approvals/{id}", guarded(show), methods=["GET"]),
        Route("/approvals/{id}/{verb}", guarded(decide), methods=["POST"]),
    ]
