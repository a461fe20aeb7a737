"""A request for a task: what an agent or orchestrator asks for, inside a template's bound.

Every part is optional but the template: a part that is left out means all that the template
allows. Unknown keys are refused, so that a misspelt restriction is never silently no restriction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from remit.model.errors import InputError
from remit.model.label import Confidentiality
from remit.model.mandate import Budget, Capability
from remit.model.subject import Environment
from remit.model.task import Task
from remit.proof.dpop import is_thumbprint
from remit.tasks.keys import MAX_CALLS, MAX_SECONDS, MAX_TEXT, Keys

MAX_PROMPT_BYTES = 262_144
# C0 and C1, but tab, line feed and carriage return: what drives a terminal that shows the prompt.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_KEYS = (
    "template",
    "purpose",
    "on_behalf_of",
    "prompt",
    "capability",
    "environments",
    "data_ceiling",
    "egress",
    "budget",
    "expires_seconds",
    "confirmation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """What is asked for. None means: all that the template allows.

    ``budget`` holds calls, seconds and amounts with their sources; ``amount_limits`` lowers amounts
    that the template already counts. ``on_behalf_of`` None means the agent's owner.
    ``key`` is the thumbprint of the key that the task is to be bound to. ``prompt`` is sensitive: it
    goes to the vault, and only its salted digest into the mandate.
    """

    template: str
    purpose: str | None = None
    on_behalf_of: str | None = None
    prompt: str | None = field(default=None, repr=False)
    capabilities: tuple[Capability, ...] | None = None
    environments: tuple[Environment, ...] | None = None
    data_ceiling: Confidentiality | None = None
    egress: tuple[str, ...] | None = None
    budget: Budget = field(default_factory=Budget)
    amount_limits: Mapping[str, Decimal] = field(default_factory=dict)
    expires_seconds: int | None = None
    key: str | None = None

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> TaskRequest:
        """Read a request from parsed JSON or TOML (the keys of docs/mandates.md).

        Raises:
            InputError: a key is unknown or missing, or a value is out of its bounds.
        """
        keys = Keys(data, InputError)
        keys.only(*_KEYS)
        if (template := keys.name("template")) is None:
            keys.fail("template", "is missing: it names the upper bound to open the task under")
        prompt = data.get("prompt")
        if prompt is not None and not (isinstance(prompt, str) and _fits(prompt)):
            keys.fail("prompt", f"is not a text of at most {MAX_PROMPT_BYTES} bytes")
        if prompt is not None and _CONTROL.search(prompt):
            keys.fail("prompt", "holds a control character other than tabs and line breaks")
        confirmation = data.get("confirmation")
        if confirmation is not None and not _is_confirmation(confirmation):
            keys.fail("confirmation", 'is not `{ jkt = "…" }`, the SHA-256 thumbprint of a key')
        budget = keys.below("budget", data.get("budget", {}))
        budget.only("calls", "seconds", "amount")
        counted, limits = budget.below("amount", budget.data.get("amount", {})).amounts()
        return cls(
            template=template,
            purpose=keys.line("purpose", limit=MAX_TEXT),
            on_behalf_of=keys.line("on_behalf_of"),
            prompt=prompt,
            capabilities=keys.capabilities("capability", references=False),
            environments=keys.environments("environments"),
            data_ceiling=keys.ceiling("data_ceiling"),
            egress=keys.hosts("egress"),
            budget=Budget(
                calls=budget.whole("calls", most=MAX_CALLS),
                seconds=budget.seconds("seconds"),
                amounts=counted,
            ),
            amount_limits=limits,
            expires_seconds=keys.whole("expires_seconds", most=MAX_SECONDS),
            key=None if confirmation is None else confirmation["jkt"],
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """A task that was opened, and the token that only its workload can use."""

    task: Task
    token: str = field(repr=False)


def _is_confirmation(value: object) -> bool:
    """Return whether it is a ``cnf`` claim (RFC 7800) that we can hold a request against."""
    return isinstance(value, Mapping) and value.keys() == {"jkt"} and is_thumbprint(value["jkt"])


def _fits(prompt: str) -> bool:
    try:
        return len(prompt.encode()) <= MAX_PROMPT_BYTES
    except UnicodeEncodeError:
        return False
