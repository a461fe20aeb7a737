"""One policy as a bundle holds it: Cedar's form, and the words beside it for people.

Annotations: ``@id`` names it, ``@reason`` says why it decided so, ``@remedy`` what would change
that, ``@control`` the framework controls it serves. A forbid may say ``@approval("role")``: whom to
ask where a person's yes would lift it. A permit may say ``@obligation("id")``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remit.policy import cedar
from remit.policy.facts import Facts
from remit.policy.schema import ACTIONS, Path

ANNOTATIONS = ("id", "reason", "remedy", "control", "approval", "obligation")
ID = re.compile(r"[a-z][a-z0-9_.-]{0,99}\Z")
PLACEHOLDER = re.compile(r"\{(\w*)\}")
_MAX_SHOWN = 240
_WORDS = ("public", "internal", "confidential", "restricted")
ARGUMENT_FACTS = ("arguments", "numbers", "decimals", "argument_types", "argument_names")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One policy. ``reads`` are the facts it reads; ``actions`` those its scope can match."""

    id: str
    file: str
    forbids: bool
    reason: str
    remedy: str | None
    controls: tuple[str, ...]
    approval_role: str | None
    obligations: tuple[str, ...]
    actions: tuple[str, ...]
    reads: frozenset[Path]
    est: cedar.Est = field(repr=False)

    @property
    def text(self) -> str:
        """The policy as Cedar text, in Cedar's own layout."""
        return cedar.render(self.est)

    @property
    def reads_arguments(self) -> bool:
        """Whether its answer depends on arguments, by themselves or as measured."""
        return any(not path or path[0] in ARGUMENT_FACTS for path in self.reads)

    @classmethod
    def of(cls, position: str, file: str, est: cedar.Est) -> Source:
        """Read one policy; where it has no ``@id``, its file and position stand in."""
        notes: Mapping[str, str | None] = est.get("annotations", {})
        return cls(
            id=notes.get("id") or f"{file}:{position}",
            file=file,
            forbids=est.get("effect") == "forbid",
            reason=notes.get("reason") or "",
            remedy=notes.get("remedy") or None,
            controls=_items(notes.get("control")),
            approval_role=notes.get("approval") or None,
            obligations=_items(notes.get("obligation")),
            actions=_actions(est.get("action", {})),
            reads=cedar.reads(est),
            est=est,
        )


def _items(text: str | None) -> tuple[str, ...]:
    return tuple(item.strip() for item in (text or "").split(",") if item.strip())


def _actions(scope: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the actions that a scope matches; all of them where in doubt."""
    named = [scope["entity"]] if "entity" in scope else scope.get("entities")
    if scope.get("op") not in {"==", "in"} or not isinstance(named, list):
        return ACTIONS
    ids = {entity.get("id") for entity in named if entity.get("type") == "Action"}
    return tuple(action for action in ACTIONS if action in ids)


def _listed(values: list[str]) -> str:
    return ", ".join(sorted(values)) or "none"


PLACEHOLDERS: Mapping[str, Any] = {
    "action": lambda f: f.action.replace("_", " "),
    "agent": lambda f: f"`{f.principal}`",
    "agent_environment": lambda f: f.context["subject"]["environment"],
    "agent_state": lambda f: f.context["subject"]["state"],
    "autonomy": lambda f: f.context["subject"]["autonomy"],
    "depth": lambda f: f.context["mandate"]["depth"],
    "max_depth": lambda f: f.context["subject"]["max_depth"],
    "ceiling": lambda f: _WORDS[f.context["mandate"]["ceiling"]],
    "environment": lambda f: f.context["tool"]["environment"],
    "environments": lambda f: _listed(f.context["mandate"]["environments"]),
    "exhausted": lambda f: _listed(f.context["mandate"]["exhausted"]),
    "label": lambda f: _WORDS[f.context["tool"]["label"]["confidentiality"]],
    "role": lambda f: f.context["mandate"]["approval_role"] or "an approver",
    "target": lambda f: f"`{f.target}`",
    "task_label": lambda f: _WORDS[f.context["task"]["label"]["confidentiality"]],
    "template": lambda f: f"`{f.context['mandate']['template']}`",
    "upstream": lambda f: f"`{f.upstream}`",
    "violations": lambda f: "; ".join(f.context["mandate"]["violations"]),
}
"""What ``@reason`` and ``@remedy`` may name in braces. None of them is an argument's value."""


def filled(words: str, facts: Facts) -> str:
    """Fill the placeholders, each on one line and at most ``_MAX_SHOWN`` characters."""

    def value(match: re.Match[str]) -> str:
        fill = PLACEHOLDERS.get(match[1])
        return match[0] if fill is None else shown(str(fill(facts)))

    return PLACEHOLDER.sub(value, words)


def shown(text: str) -> str:
    """Return text that an agent had a hand in, safe to put into one line."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return (
        clean if len(clean) <= _MAX_SHOWN else clean[: _MAX_SHOWN - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )
