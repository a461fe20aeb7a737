"""Routes of the task desk: for people, and for an agent's own tasks."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, body_of, guarded, limit_of, plain
from remit.api.callers import Callers, ForbiddenError
from remit.model.errors import InputError, NotFoundError
from remit.model.subject import Agent, Person, Subject
from remit.model.task import Task, TaskState
from remit.spine import Authority, close_task
from remit.tasks.request import TaskRequest


def routes(authority: Authority, callers: Callers) -> list[Route]:
    """Return the task desk's routes."""

    async def open_task(request: Request) -> Response:
        caller = await callers.person_or_agent(request)
        wanted = await body_of(request, dict[str, Any])
        opened_by = _name(caller)
        asked = wanted.pop("agent", None)
        name = caller.agent.name if isinstance(caller, Subject) else asked
        if isinstance(caller, Subject) and asked not in {None, name}:
            raise ForbiddenError("an agent opens tasks for itself only")
        agent = _agent(name, authority)
        opened = await authority.tasks.open(
            TaskRequest.parse(wanted), agent=agent, opened_by=opened_by
        )
        return answer({**view(opened.task), "task_token": opened.token}, 201)

    async def listing(request: Request) -> Response:
        caller = await callers.person_or_agent(request)
        limit = limit_of(request)
        tasks = await authority.tasks.list(
            state=_state(request.query_params.get("state")),
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


def _agent(name: object, authority: Authority) -> Agent:
    if not isinstance(name, str):
        raise InputError("say for which `agent` the task is")
    agent = authority.registry.get(name)
    if agent is None:
        raise NotFoundError(f"no agent `{name}` is registered: see `remit agent list`")
    return agent


def _state(text: str | None) -> TaskState | None:
    if text is not None and text not in set(TaskState):
        raise InputError(f"`state` is one of {', '.join(TaskState)}, not `{text[:20]}`")
    return TaskState(text) if text else None
