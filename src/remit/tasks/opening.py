"""Who may open a task under which template, and for whom."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from remit.model.errors import InputError, MandateError
from remit.model.ids import new_id
from remit.model.mandate import Mandate, Template
from remit.model.subject import Agent, AgentState
from remit.model.task import Task
from remit.tasks.delegating import within
from remit.tasks.mandates import MANDATE_TYP, MAX_MANDATE_BYTES, digest_of, narrowed, to_claims
from remit.tasks.ports import Clock, Signer
from remit.tasks.request import TaskRequest

_SALT_BYTES = 16
_ID_BYTES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who asks for a task with what, once that is allowed. ``above`` is the task it is a part of."""

    request: TaskRequest
    template: Template
    agent: Agent
    on_behalf_of: str
    opened_by: str
    key: str | None
    above: Task | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A task with its signed mandate, and the salt of its prompt's digest."""

    task: Task
    salt: bytes = field(repr=False)


def draw(
    asked: Asked, *, signer: Signer, clock: Clock, randomness: Callable[[int], bytes]
) -> Drawn:
    """Return the open task that is asked for, inside its template, and inside what is above it.

    Raises:
        InputError: the request asks for more, or is too long.
    """
    now: datetime = clock()
    task_id = new_id("task", now, randomness(_ID_BYTES))
    salt = randomness(_SALT_BYTES)
    mandate = narrowed(
        asked.template,
        asked.request,
        task_id=task_id,
        agent=asked.agent,
        on_behalf_of=asked.on_behalf_of,
        opened_by=asked.opened_by,
        prompt=prompt_digest(salt, asked.request.prompt),
        now=now,
    )
    if asked.above is not None:
        mandate = within(mandate, asked.request, asked.above)
    return Drawn(signed(mandate, asked.template, asked.key, signer), salt)


def template_for(request: TaskRequest, agent: Agent, templates: Mapping[str, Template]) -> Template:
    """Return the template that bounds the request.

    Raises:
        MandateError: the agent is not active or not registered for it, or there is none.
    """
    if agent.state is not AgentState.ACTIVE:
        raise MandateError(f"agent `{agent.name}` is {agent.state.value}")
    if request.template not in {*agent.templates, *agent.gateway_templates}:
        raise MandateError(
            f"agent `{agent.name}` may not act under template `{request.template}`: "
            "its registration names those it may"
        )
    template = templates.get(request.template)
    if template is None:
        raise MandateError(f"there is no template `{request.template}` in the policy bundle")
    return template


def beneficiary(request: TaskRequest, agent: Agent, opened_by: str) -> str:
    """Return on whose behalf the task runs: who is named, else the owner, else who opens it.

    Raises:
        MandateError: the agent itself opens it, and names somebody other than its owner.
    """
    asked = request.on_behalf_of or agent.owner or opened_by
    if opened_by == str(agent.spiffe_id) and asked != agent.owner:
        raise MandateError(f"an agent opens tasks on behalf of its owner only, not of `{asked}`")
    return asked


def signed(mandate: Mandate, template: Template, key: str | None, signer: Signer) -> Task:
    """Return the open task of a mandate that is signed with this.

    Raises:
        InputError: it is too long.
    """
    jws = signer.sign(to_claims(mandate, f"spiffe://{signer.name}"), typ=MANDATE_TYP)
    if len(jws) > MAX_MANDATE_BYTES:
        raise InputError(f"the mandate is longer than {MAX_MANDATE_BYTES} bytes once signed")
    return Task(
        mandate=mandate,
        template=template,
        signed_mandate=jws,
        mandate_digest=digest_of(jws),
        key=key,
    )


def prompt_digest(salt: bytes, prompt: str | None) -> str | None:
    """Return what the mandate holds of a prompt: SHA-256 over the salt and its UTF-8 bytes."""
    if prompt is None:
        return None
    return f"sha256:{hashlib.sha256(salt + prompt.encode()).hexdigest()}"
