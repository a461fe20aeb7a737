"""Fills a binding's grant with what one call says: references, never expressions.

``{args.repo}`` is an argument of the call, ``{task.id}``, ``{task.on_behalf_of}`` and
``{task.template}`` are the task's; a delegated task has the last only where its whole chain is under
one template, since which is the narrower cannot be told from names. A value that is one reference
and nothing else keeps the argument's type, so that a list stays a list; within a longer text only
text and whole numbers fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from remit.model.call import Call
from remit.model.errors import ConfigError, InputError
from remit.model.lease import LeaseScope
from remit.model.task import Task

REFERENCE = re.compile(r"\{(?P<of>args|task)\.(?P<name>[A-Za-z_][A-Za-z0-9_-]*)\}")
_TASK = ("id", "on_behalf_of", "template")


def check_grant(grant: Mapping[str, Any], scope: LeaseScope, where: str) -> None:
    """Look at a grant's references when the configuration is read.

    Raises:
        ConfigError: a reference to nothing, or to arguments where the lease spans a whole task.
    """
    for of, name in references(grant):
        if of == "task" and name not in _TASK:
            known = ", ".join(f"`{{task.{each}}}`" for each in _TASK)
            raise ConfigError(f"{where}: `{{task.{name}}}` is not known; {known} are")
        if of == "args" and scope is LeaseScope.TASK:
            raise ConfigError(
                f'{where}: `{{args.{name}}}` wants `scope = "call"`: '
                "a credential for the whole task cannot follow one call's arguments"
            )


def fill_grant(grant: Mapping[str, Any], task: Task, call: Call) -> dict[str, Any]:
    """Return the grant with its references filled in.

    Raises:
        InputError: an argument that the grant refers to is missing, or does not fit into a text; or
            the grant follows the template, and the task's chain is under several.
    """
    templates = sorted({each.mandate.template for each in task.chain})
    if len(templates) > 1 and ("task", "template") in references(grant):
        named = " and ".join(f"`{each}`" for each in templates)
        raise InputError(
            f"the credential for this call depends on the template, and the chain of tasks is under "
            f"{named}: delegate under the parent's own"
        )
    known: dict[str, Mapping[str, Any]] = {
        "args": call.arguments,
        "task": {
            "id": task.id,
            "on_behalf_of": task.mandate.on_behalf_of,
            "template": task.mandate.template,
        },
    }
    return {key: _filled(value, known) for key, value in grant.items()}


def _filled(value: Any, known: Mapping[str, Mapping[str, Any]]) -> Any:
    if isinstance(value, str):
        whole = REFERENCE.fullmatch(value)
        if whole is not None:
            return _look(known, whole)
        return REFERENCE.sub(lambda found: _text(known, found), value)
    if isinstance(value, Mapping):
        return {key: _filled(each, known) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(each, known) for each in value]
    return value


def _look(known: Mapping[str, Mapping[str, Any]], found: re.Match[str]) -> Any:
    try:
        return known[found["of"]][found["name"]]
    except KeyError as error:
        raise InputError(
            f"argument `{found['name']}` is needed: the credential for this call depends on it"
        ) from error


def _text(known: Mapping[str, Mapping[str, Any]], found: re.Match[str]) -> str:
    value = _look(known, found)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(
            f"argument `{found['name']}` has to be text or a whole number: "
            "the credential for this call depends on it"
        )
    return str(value)


def references(value: Any) -> list[tuple[str, str]]:
    """Return what a grant, or a part of one, refers to: ``args`` or ``task``, and the name."""
    return [
        (found["of"], found["name"]) for text in texts(value) for found in REFERENCE.finditer(text)
    ]


def refers(text: str) -> bool:
    """Whether a text waits to be filled in; so does one whose reference is misspelt."""
    return "{args." in text or "{task." in text


def filled_anyhow(value: Any) -> Any:
    """Return a grant as if an ordinary text had been filled in, to look at the rest of it."""
    if isinstance(value, str):
        return REFERENCE.sub("x", value)
    if isinstance(value, Mapping):
        return {key: filled_anyhow(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [filled_anyhow(each) for each in value]
    return value


def texts(value: Any) -> list[str]:
    """Return every text that stands as a value, however deep."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, list | tuple):
        return [text for each in value for text in texts(each)]
    return []
