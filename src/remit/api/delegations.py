"""The route by which a part of a task is given to another agent: by its token, or by its people."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, body_of, guarded
from remit.api.callers import Callers
from remit.api.tasks import Prompts, agent_of, name_of, recorded, require_own, view
from remit.model.errors import MandateError
from remit.model.subject import Claim, Person, Subject
from remit.model.task import Task
from remit.spine import Authority
from remit.tasks.request import TaskRequest


def routes(authority: Authority, callers: Callers, prompts: Prompts) -> list[Route]:
    """Return the route; put it before those of the task desk."""

    async def delegate(request: Request) -> Response:
        caller = await callers.person_or_agent(request)
        parent = await _held(caller, request, authority)
        wanted = await body_of(request, dict[str, Any])
        agent = agent_of(wanted.pop("agent", None), authority)
        request_of = TaskRequest.parse(wanted)
        await prompts.require_none(wanted)
        async with recorded(authority):
            opened = await authority.tasks.delegate(
                request_of, parent=parent.id, agent=agent, opened_by=name_of(caller)
            )
        prompts.note(wanted, opened.task)
        return answer({**view(opened.task), "task_token": opened.token}, 201)

    return [Route("/tasks/{id}/delegate", guarded(delegate), methods=["POST"])]


async def _held(caller: Person | Subject, request: Request, authority: Authority) -> Task:
    """Return the task to delegate a part of, if the caller holds its token or may end it.

    Raises:
        MandateError: the agent sends no token of that task that is good in its hands.
        ForbiddenError: the person may not end the task.
        NotFoundError: there is no such task.
    """
    task_id = request.path_params["id"]
    if isinstance(caller, Person):
        task = await authority.tasks.get(task_id)
        require_own(caller, task.mandate.on_behalf_of, task.mandate.opened_by)
        return task
    tokens = request.headers.getlist("remit-task")
    async with recorded(authority):
        if len(tokens) != 1:
            raise MandateError(
                "send the token of the task that is to be delegated, once, as `Remit-Task`"
            )
        task = await authority.tasks.admit(Claim(task_token=tokens[0]), caller)
        if task.id != task_id:
            raise MandateError("the task token is of another task than the one to be delegated")
    return task
