"""Remit's own tools, for a plain MCP client that knows nothing of tasks.

They are offered to an agent whose operator gave it ``gateway_templates``, unless the client manages
its task itself (``Remit-Task``). The task that ``remit_begin_task`` opens becomes the *current* one
of the calling workload: the binding is kept in the authority, by SPIFFE ID, so that no token ever
enters the model's context. It holds for every upstream the workload calls and in both protocol
eras (2026-07-28 has no session it could hang on); a workload has one current task at a time. A task
that was begun with a proof of possession is bound to its key, so that the workload's identity alone,
captured and sent again, does not find it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from remit.gateway.doorway import admit, recorded
from remit.gateway.house import House
from remit.gateway.incoming import note_prompt
from remit.gateway.refusals import refusal, tool_result
from remit.gateway.reply import Reply
from remit.gateway.wire import Message
from remit.model.errors import ConflictError, InputError, MandateError, RemitError
from remit.model.mandate import Template
from remit.model.subject import Agent, Claim, Subject
from remit.model.task import Task, TaskState
from remit.tasks.desk import TaskDesk
from remit.tasks.keys import MAX_TEXT
from remit.tasks.possession import key_of
from remit.tasks.request import TaskRequest

BEGIN = "remit_begin_task"
STATUS = "remit_task_status"
COMPLETE = "remit_complete_task"
NAMES = frozenset({BEGIN, STATUS, COMPLETE})
"""Names that an upstream's tools cannot have: such a tool is not listed."""

_MAX_TEXT = 20_000


def offered(claim: Claim, subject: Subject) -> bool:
    """Whether the caller is offered these tools."""
    return claim.task_token is None and bool(subject.agent.gateway_templates)


def is_own(message: Message, claim: Claim, subject: Subject) -> bool:
    """Whether a message calls one of them."""
    return (
        message.method == "tools/call"
        and message.params.get("name") in NAMES
        and offered(claim, subject)
    )


def with_current(claim: Claim, subject: Subject, tasks: TaskDesk) -> Claim:
    """Return the claim with the workload's current task in it, where it carries no task itself."""
    if not offered(claim, subject):
        return claim
    return replace(claim, task_token=tasks.current(str(subject.workload)))


def definitions(agent: Agent, templates: Mapping[str, Template]) -> list[msgspec.Raw]:
    """Return the definitions as a listing shows them."""
    known = [templates[name] for name in agent.gateway_templates if name in templates]
    purposes = "; ".join(f"`{t.name}`: {t.purpose}" for t in known) or "none is loaded"
    names = [t.name for t in known]
    text = {"type": "string", "maxLength": _MAX_TEXT}
    begin = {
        "name": BEGIN,
        "description": (
            "Begin a task before you use this server's tools. Say what it is for; every call is "
            f"then checked against it, until you complete it. Templates: {purposes}."
        ),
        "inputSchema": {
            "type": "object",
            "properties": {
                "template": {"type": "string", "enum": names},
                "purpose": text
                | {"maxLength": MAX_TEXT}
                | {"description": "What the task is for, in one sentence."},
                "prompt": text | {"description": "The user's request, word for word, if any."},
                "on_behalf_of": text
                | {"maxLength": 256}
                | {"description": "The user it is done for, if any."},
            },
            "required": ["template", "purpose"],
            "additionalProperties": False,
        },
        "annotations": {"destructiveHint": False, "openWorldHint": False},
    }
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    status = {
        "name": STATUS,
        "description": "Say what the current task is, what it may still use, and when it ends.",
        "inputSchema": empty,
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    }
    complete = {
        "name": COMPLETE,
        "description": "Complete the current task: nothing more can be done under it.",
        "inputSchema": empty,
        "annotations": {"destructiveHint": False, "openWorldHint": False},
    }
    return [msgspec.Raw(json.dumps(each).encode()) for each in (begin, status, complete)]


async def answer(house: House, message: Message, subject: Subject, reply: Reply) -> None:
    """Answer a call of one of these tools."""
    arguments = message.params.get("arguments") or {}
    try:
        if not isinstance(arguments, dict):
            raise InputError("`arguments` has to be an object")
        if message.params["name"] == BEGIN:
            async with recorded(house.authority):
                text, told = await _begin(house, arguments, subject)
        elif message.params["name"] == STATUS:
            _require_only(arguments, set())
            text, told = _status(await _current(house, subject))
        else:
            _require_only(arguments, set())
            text, told = await _complete(house, subject)
        body = tool_result(message, text, structured=told)
    except RemitError as error:
        body = refusal(message, error)
    await reply.message(200, body)


async def _begin(
    house: House, arguments: dict[str, Any], subject: Subject
) -> tuple[str, dict[str, Any]]:
    _require_only(arguments, {"template", "purpose", "prompt", "on_behalf_of"})
    for name in ("template", "purpose"):
        if not arguments.get(name):
            raise InputError(f"`{name}` is missing")
    template = arguments["template"]
    agent, owner = subject.agent, str(subject.workload)
    tasks = house.authority.tasks
    if template not in agent.gateway_templates:
        known = ", ".join(agent.gateway_templates)
        raise MandateError(f"`{template}` is no template you may begin a task under; use {known}")
    if tasks.current(owner) is not None or owner in house.beginning:
        raise ConflictError(f"a task is open already; use it, or end it with {COMPLETE}")
    request = TaskRequest.parse(arguments)
    others = house.guard.look(arguments, rules=True)

    async def begin() -> Task:
        try:
            opened = await tasks.open(request, agent=agent, opened_by=owner, key=key_of(subject))
            note_prompt(others, opened.task, house.authority)
            tasks.bind_current(owner, opened.task.id)
            return opened.task
        finally:
            del house.beginning[owner]

    # What was opened is bound, even if the client leaves: else nobody would know of it.
    beginning = house.beginning[owner] = asyncio.ensure_future(begin())
    beginning.add_done_callback(lambda done: done.cancelled() or done.exception())
    text, told = _status(await asyncio.shield(beginning))
    return f"Begun. {text}", told


async def _complete(house: House, subject: Subject) -> tuple[str, dict[str, Any]]:
    task = await _current(house, subject)
    closed = await house.close_task(
        task.id, TaskState.COMPLETED, str(subject.workload), house.authority
    )
    return f"Task `{closed.id}` is complete.", {"task": closed.id, "state": closed.state.value}


async def _current(house: House, subject: Subject) -> Task:
    tasks = house.authority.tasks
    token = tasks.current(str(subject.workload))
    if token is None:
        raise MandateError(f"no task is open; begin one with {BEGIN}")
    return await admit(Claim(task_token=token), subject, house.authority)


def _status(task: Task) -> tuple[str, dict[str, Any]]:
    mandate, spent = task.mandate, task.spent
    calls = mandate.budget.calls
    left = None if calls is None else max(calls - spent.calls, 0)
    until = mandate.expires_at.isoformat(timespec="seconds")
    targets = [capability.target for capability in mandate.capabilities]
    told: dict[str, Any] = {
        "task": task.id,
        "state": task.state.value,
        "template": mandate.template,
        "purpose": mandate.purpose,
        "tools": targets,
        "calls_left": left,
        "expires_at": until,
    }
    budget = "" if left is None else f" {left} calls are left."
    text = (
        f"Task `{task.id}` is {task.state.value}, for: {mandate.purpose}. It ends at {until}."
        f"{budget} It may use: {', '.join(targets) or 'nothing'}."
    )
    return text, told


def _require_only(arguments: dict[str, Any], known: set[str]) -> None:
    for name, value in arguments.items():
        if name not in known:
            raise InputError(f"there is no argument `{name[:64]}`")
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise InputError(f"`{name}` has to be a text of at most {_MAX_TEXT} characters")
