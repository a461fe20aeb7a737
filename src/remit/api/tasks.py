"""Routes of the task desk: for people, and for an agent's own tasks.

A person without the operator's role opens and ends tasks in their own name: on whose behalf a task
runs decides as whom it acts at a target.

An agent gives a part of a task to another by that task's token, and may look at what it delegated
and cancel it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import MAX_PAGE, answer, body_of, guarded, limit_of, plain
from remit.api.callers import OPERATOR, Callers, ForbiddenError, holds_operator
from remit.closing import close_task
from remit.model.errors import InputError, MandateError, NotFoundError
from remit.model.record import Context
from remit.model.subject import Agent, Person, Subject
from remit.model.task import Task, TaskState
from remit.spine import Authority
from remit.tasks.request import TaskRequest


class Prompts(Protocol):
    """Looks for credentials in what a task is asked for with."""

    async def require_none(self, wanted: Mapping[str, Any]) -> None:
        """Refuse, with a record, what holds a credential that Remit minted."""
        ...

    def note(self, wanted: Mapping[str, Any], task: Task) -> None:
        """Leave a finding where it holds somebody else's."""
        ...


def routes(authority: Authority, callers: Callers, prompts: Prompts) -> list[Route]:
    """Return the task desk's routes."""

    async def open_task(request: Request) -> Response:
        caller = await callers.person_or_agent(request)
        wanted = await body_of(request, dict[str, Any])
        opened_by = name_of(caller)
        agent = agent_of(_for(caller, wanted.pop("agent", None)), authority)
        _in_own_name(caller, wanted)
        request_of = TaskRequest.parse(wanted)
        await prompts.require_none(wanted)
        async with recorded(authority):
            opened = await authority.tasks.open(
                request_of, agent=agent, opened_by=opened_by, key=_key(caller)
            )
        prompts.note(wanted, opened.task)
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
        shown = [view(task) for task in tasks if _may_see(caller, task, authority)]
        return answer({"items": shown, "next": following})

    async def show(request: Request) -> Response:
        _, task = await _visible(request, callers, authority)
        return answer({**view(task), "children": await _children(task, authority)})

    async def close(request: Request) -> Response:
        caller, task = await _visible(request, callers, authority)
        own = isinstance(caller, Person) or task.mandate.workload == caller.workload
        endings = {"complete": TaskState.COMPLETED, "cancel": TaskState.CANCELLED}
        verb = request.path_params["verb"]
        if verb not in endings:
            raise NotFoundError(f"a task can be completed, cancelled or delegated, not `{verb}`")
        if not own and verb != "cancel":
            raise ForbiddenError("who delegated a task may cancel it; its agent completes it")
        require_own(caller, task.mandate.on_behalf_of, task.mandate.opened_by)
        closed = await close_task(task.id, endings[verb], name_of(caller), authority)
        return answer(view(closed))

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


async def _visible(
    request: Request, callers: Callers, authority: Authority
) -> tuple[Person | Subject, Task]:
    """Return who asks, and the task, if they may see it."""
    # Asked once: what proves the caller is used up by that.
    caller = await callers.person_or_agent(request)
    task_id = request.path_params["id"]
    task = await authority.tasks.get(task_id)
    if isinstance(caller, Subject):
        held = await _by_workload(task, caller, authority)
        if held is None:
            raise NotFoundError(f"there is no task `{task_id}`")
        async with recorded(authority):
            authority.tasks.require_key(held, caller)
    return caller, task


async def _by_workload(task: Task, caller: Subject, authority: Authority) -> Task | None:
    """Return the task if it is the caller's, or its parent if the caller delegated it."""
    parent = task.mandate.parent
    if task.mandate.workload == caller.workload:
        return task
    if parent is not None and parent.workload == caller.workload:
        return await authority.tasks.get(parent.task)
    return None


async def _children(task: Task, authority: Authority) -> list[dict[str, str]]:
    """Return what was delegated of a task, the first first."""
    below = await authority.tasks.list(parent=task.id, limit=MAX_PAGE)
    return [
        {
            "id": child.id,
            "agent": child.mandate.agent,
            "state": child.state.value,
            "purpose": child.mandate.purpose,
        }
        for child in reversed(below)
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
        "ended_with": task.ended_with,
        "parent": None if mandate.parent is None else mandate.parent.task,
        "delegated_by": None if mandate.parent is None else str(mandate.parent.workload),
        "mandate": task.mandate_digest,
        "key": task.key,
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


@contextlib.asynccontextmanager
async def recorded(authority: Authority) -> AsyncIterator[None]:
    """Leave a record of an agent's task that is refused here, durable before it is told."""
    try:
        yield
    except MandateError as error:
        authority.evidence.stage(error.record(), Context())
        await authority.evidence.barrier()
        raise


def _may_see(caller: Person | Subject, task: Task, authority: Authority) -> bool:
    if isinstance(caller, Person):
        return True
    try:
        authority.tasks.require_key(task, caller)
    except MandateError:
        return False
    return True


def name_of(caller: Person | Subject) -> str:
    """Return who asks, as records name them."""
    return str(caller.workload) if isinstance(caller, Subject) else caller.id


def _for(caller: Person | Subject, asked: object) -> object:
    """Return the name of the agent that a task is opened for."""
    if not isinstance(caller, Subject):
        return asked
    if asked not in {None, caller.agent.name}:
        raise ForbiddenError("an agent opens tasks for itself only")
    return caller.agent.name


def _in_own_name(caller: Person | Subject, wanted: dict[str, Any]) -> None:
    """Open a task for whoever asks, where that is a person who may not open it for others."""
    if isinstance(caller, Person) and not holds_operator(caller):
        require_own(caller, wanted.setdefault("on_behalf_of", caller.id))


def require_own(caller: Person | Subject, *whose: object) -> None:
    """Raise where a person who is no operator reaches for a task of others."""
    if isinstance(caller, Person) and not holds_operator(caller) and caller.id not in whose:
        raise ForbiddenError(
            f"`{caller.id}` opens and ends tasks in their own name only: "
            f"for others, that takes the role `{OPERATOR}`"
        )


def _key(caller: Person | Subject) -> str | None:
    return caller.key if isinstance(caller, Subject) else None


def agent_of(name: object, authority: Authority) -> Agent:
    """Return the registered agent of this name."""
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
