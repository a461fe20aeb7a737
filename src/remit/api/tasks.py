"""Routes of the task desk: for people, and for an agent's own tasks."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, body_of, guarded, limit_of, plain
from remit.api.callers import Callers, ForbiddenError
from remit.model.errors import InputError, NotFoundError
from remit.model.subject import Person, Subject
from remit.model.task import Task, TaskState
from remit.spine import Authority, close_task
from remit.tasks.request import TaskRequest, request_from


class Opening(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `POST /tasks` takes; everything left out is the template's."""

    template: str
    agent: str | None = None
    purpose: str | None = None
    prompt: str | None = None
    on_behalf_of: str | None = None
    capability: list[dict[str, Any]] | None = None
    data_ceiling: str | None = None
    environments: list[str] | None = None
    egress: list[str] | None = None
    expires_seconds: int | None = None
    budget: dict[str, Any] | None = None


def routes(authority: Authority, callers: Callers) -> list[Route]:
    """Return the task desk's routes."""

    async def open_task(request: Request) -> Response:
        caller = await callers.person_or_agent(request)
        wanted = await body_of(request, Opening)
        opened_by = _name(caller)
        name = caller.agent.name if isinstance(caller, Subject) else wanted.agent
        if isinstance(caller, Subject) and wanted.agent not in {None, name}:
            raise ForbiddenError("an agent opens tasks for itself only")
        if name is None:
            raise InputError("say for which `agent` the task is")
        agent = authority.registry.get(name)
        if agent is None:
            raise NotFoundError(f"no agent `{name}` is registered: see `remit agent list`")
        opened = await authority.tasks.open(
            _request(wanted, opened_by), agent=agent, opened_by=opened_by
        )
        return answer({**view(opened.task), "task_token": opened.token}, 201)

    async def listing(request: Request) -> Response:
        caller = await callers.person_or_agent(request)
        state = request.query_params.get("state")
        if state is not None and state not in set(TaskState):
            raise InputError(f"`state` is one of {', '.join(TaskState)}, not `{state[:20]}`")
        limit = limit_of(request)
        tasks = await authority.tasks.list(
            state=TaskState(state) if state else None,
            agent=caller.agent.name
            if isinstance(caller, Subject)
            else request.query_params.get("agent"),
            limit=limit,
            after=request.query_params.get("after"),
        )
        following = tasks[-1].id if len(tasks) >= limit else None
        return answer({"items": [view(task) for task in tasks], "next": following})

    async def show(request: Request) -> Response:
        return answer(view(await _visible(request)))

    async def close(request: Request) -> Response:
        task = await _visible(request)
        caller = await callers.person_or_agent(request)
        endings = {"complete": TaskState.COMPLETED, "cancel": TaskState.CANCELLED}
        verb = request.path_params["verb"]
        if verb not in endings:
            raise NotFoundError(f"a task can be completed or cancelled, not `{verb}`")
        closed = await close_task(task.id, endings[verb], _name(caller), authority)
        return answer(view(closed))

    async def _visible(request: Request) -> Task:
        caller = await callers.person_or_agent(request)
        task_id = request.path_params["id"]
        task = await authority.tasks.get(task_id)
        if isinstance(caller, Subject) and task.mandate.workload != caller.workload:
            raise NotFoundError(f"there is no task `{task_id}`")
        return task

    async def templates(request: Request) -> Response:
        await callers.person(request)
        return answer(
            {"items": [plain(t) for t in authority.tasks.templates.values()], "next": None}
        )

    return [
        Route("/tasks", guarded(open_task), methods=["POST"]),
        Route("/tasks", guarded(listing), methods=["GET"]),
        Route("/templates", guarded(templates), methods=["GET"]),
        Route("/tasks/{id}", guarded(show), methods=["GET"]),
        Route("/tasks/{id}/{verb}", guarded(close), methods=["POST"]),
    ]


def view(task: Task) -> dict[str, Any]:
    """Return a task as the API shows it: no token, no prompt."""
    mandate = task.mandate
    return {
        "id": task.id,
        "state": task.state.value,
        "agent": mandate.workload.path.rpartition("/")[2],
        "workload": str(mandate.workload),
        "purpose": mandate.purpose,
        "template": mandate.template,
        "on_behalf_of": mandate.on_behalf_of,
        "opened_by": mandate.opened_by,
        "opened_at": mandate.issued_at.isoformat(),
        "expires_at": mandate.expires_at.isoformat(),
        "closed_at": task.closed_at.isoformat() if task.closed_at else None,
        "closed_by": task.closed_by,
        "mandate": task.mandate_digest,
        "environments": [each.value for each in mandate.environments],
        "data_ceiling": mandate.data_ceiling.word,
        "capabilities": plain(mandate.capabilities),
        "budget": plain(mandate.budget),
        "spent": plain(task.spent),
        "label": {
            "confidentiality": task.label.confidentiality.word,
            "trusted": task.label.trusted,
            "categories": sorted(task.label.categories),
        },
    }


def _name(caller: Person | Subject) -> str:
    return str(caller.workload) if isinstance(caller, Subject) else caller.id


def _request(wanted: Opening, opened_by: str) -> TaskRequest:
    document = {
        key: value
        for key, value in msgspec.structs.asdict(wanted).items()
        if value is not None and key != "agent"
    }
    document.setdefault("on_behalf_of", opened_by)
    return request_from(document)
