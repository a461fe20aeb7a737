"""How one call stands against the mandate, the template in force and the budget: measured.

Sentences name the argument and the rule, never the value: they enter evidence and refusals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Context, Decimal, Inexact
from typing import Any

from remit.model.call import CALL_TOOL, Call
from remit.model.mandate import AmountLimit, Budget, Capability, Spent
from remit.model.task import Bounds, Task
from remit.tasks.keys import parse_amount
from remit.tasks.mandates import covers
from remit.tasks.schemas import MAX_MATCHED, SchemaError, compile_schema, is_pinned, is_too_long

_SHOWN = 80
_MAX_SENTENCES = 20
_EXACT = Context(prec=64, traps=[Inexact])
_WORDS = {
    "const": "has to be {}",
    "enum": "has to be one of {}",
    "maximum": "may be at most {}",
    "exclusiveMaximum": "has to be below {}",
    "minimum": "has to be at least {}",
    "exclusiveMinimum": "has to be above {}",
    "type": "has to be of type {}",
    "pattern": "has to match {}",
    "maxLength": "may have at most {} characters",
    "minLength": "has to have at least {} characters",
    "maxItems": "may have at most {} items",
    "minItems": "has to have at least {} items",
    "format": "has to be a valid {}",
}


def measure(task: Task, call: Call, *, running_seconds: float = 0.0) -> Bounds:
    """Return how ``call`` stands against ``task``, whose ``spent`` is what is used up already.

    ``running_seconds`` is what the calls in flight have taken so far.
    """
    mandate, template = task.mandate, task.template
    asked = [c for c in mandate.capabilities if covers(c, call.action, call.target)]
    allowed = [c for c in template.capabilities if covers(c, call.action, call.target)]
    role, said = _nearest(asked, call)
    bound_role, bound = _nearest(allowed, call)
    limits = (*mandate.budget.amounts, *template.budget.amounts)
    violations = list(dict.fromkeys((*said, *bound, *uncountable(limits, call))))
    if role and bound_role and role != bound_role:
        violations.append(
            f"the mandate asks approval from {shown(role)} and the template from "
            f"{shown(bound_role)}: no one approval would do for both"
        )
    calls = [b.calls for b in (mandate.budget, template.budget) if b.calls is not None]
    return Bounds(
        in_template=bool(allowed),
        in_mandate=bool(asked),
        violations=shortened(violations),
        exhausted=exhausted(task, call, running_seconds=running_seconds),
        approval_role=bound_role or role,
        calls_left=max(0, min(calls) - task.spent.calls) if calls else None,
    )


def shortened(sentences: Sequence[str]) -> tuple[str, ...]:
    """Return the first sentences, and how many more there are."""
    if len(sentences) <= _MAX_SENTENCES:
        return tuple(sentences)
    rest = len(sentences) - _MAX_SENTENCES
    return (*sentences[:_MAX_SENTENCES], f"and {rest} more rules are broken")


def exhausted(task: Task, call: Call, *, running_seconds: float = 0.0) -> tuple[str, ...]:
    """Name each part of the mandate's or the template's budget that this call would exceed."""
    spent = replace(task.spent, seconds=task.spent.seconds + running_seconds)
    adds = costs((*task.mandate.budget.amounts, *task.template.budget.amounts), call)
    found: dict[str, None] = {}
    for budget in (task.mandate.budget, task.template.budget):
        found |= dict.fromkeys(_exceeded(budget, spent, adds))
    return tuple(found)


def costs(limits: Sequence[AmountLimit], call: Call) -> Mapping[str, Decimal]:
    """Return what a call adds to each named amount; an argument counts once a name.

    What cannot be counted adds nothing here: see :func:`uncountable`.
    """
    found: dict[str, Decimal] = {}
    for name, argument in dict.fromkeys((a.name, a.argument) for a in _counting(limits, call)):
        amount = parse_amount(call.arguments.get(argument)) or Decimal(0)
        found[name] = add(found.get(name, Decimal(0)), amount)
    return found


def uncountable(limits: Sequence[AmountLimit], call: Call) -> tuple[str, ...]:
    """Return a sentence for each argument that a budget counts and that is no amount, or absent."""
    return tuple(
        f"argument {shown(limit.argument)} counts towards the budget {shown(limit.name)} "
        "and has to be an amount from 0"
        for limit in _counting(limits, call)
        if parse_amount(call.arguments.get(limit.argument)) is None
    )


def add(one: Decimal, other: Decimal) -> Decimal:
    """Return the exact sum of two amounts: with Decimal's usual 28 digits, small ones vanish."""
    return _EXACT.add(one, other)


def shown(name: str) -> str:
    """Return a caller's text in backticks, escaped and cut short, as sentences may hold it."""
    text = name.encode("unicode_escape").decode().replace("`", "'")
    return f"`{text}`" if len(text) <= _SHOWN else f"`{text[:_SHOWN]}…`"


def _counting(limits: Sequence[AmountLimit], call: Call) -> Sequence[AmountLimit]:
    if call.action != CALL_TOOL:
        return ()
    return [limit for limit in limits if limit.target == call.target]


def _exceeded(budget: Budget, spent: Spent, adds: Mapping[str, Decimal]) -> list[str]:
    found = []
    if budget.calls is not None and spent.calls + 1 > budget.calls:
        found.append("calls")
    if budget.seconds is not None and spent.seconds >= budget.seconds:
        found.append("seconds")
    for limit in budget.amounts:
        total = add(spent.amounts.get(limit.name, Decimal(0)), adds.get(limit.name, Decimal(0)))
        if limit.name in adds and total > limit.limit:
            found.append(limit.name)
    return found


def _nearest(capabilities: Sequence[Capability], call: Call) -> tuple[str | None, tuple[str, ...]]:
    """Return the role to ask and nothing broken, or what the nearest capability says is broken.

    Where several are satisfied, one that asks nobody comes first: they are alternatives.
    """
    tried = [(c.approval, _violations(c, call.arguments)) for c in capabilities]
    roles = [role for role, said in tried if not said]
    if roles:
        return (None if None in roles else roles[0]), ()
    return None, min((said for _, said in tried), key=len, default=())


def _violations(capability: Capability, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    said = []
    for name, value in arguments.items():
        if name in capability.args:
            said.extend(_breaks(name, capability.args[name], value))
        elif not capability.other_args:
            said.append(f"argument {shown(name)} is not allowed")
    for name, schema in capability.args.items():
        if name not in arguments and is_pinned(schema):
            said.append(f"argument {shown(name)} has to be given")
    return tuple(said)


def _breaks(name: str, schema: Any, value: Any) -> list[str]:
    if is_too_long(value, schema):
        fit = f"{MAX_MATCHED} characters fit"
        return [f"argument {shown(name)} is too long for the pattern of its schema: {fit}"]
    try:
        error = next(iter(compile_schema(schema).iter_errors(value)), None)
    except SchemaError as broken:
        return [f"argument {shown(name)} cannot be allowed: its schema {broken}"]
    except (ValueError, TypeError, OverflowError, RecursionError):
        # A lone surrogate, for one: no JSON text holds it, so no rule is satisfied by it.
        return [f"argument {shown(name)} holds a value that cannot be checked"]
    if error is None:
        return []
    path = list(error.schema_path)
    keyword = next((part for part in reversed(path) if isinstance(part, str)), "schema")
    # Where inside the argument: only positions and keys of the schema's own; others are values.
    where = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" if part in path else ".*"
        for part in error.instance_path
    )
    words = _WORDS.get(keyword, "breaks the rule {} of its schema")
    rule = _rule(schema, path) if keyword in _WORDS else shown(keyword)
    inside = f" at {shown(where)}" if where else ""
    return [f"argument {shown(name)}{inside} {words.format(rule)}"]


def _rule(schema: Any, path: Sequence[str | int]) -> str:
    """Return what the schema says at ``path``, cut short."""
    rule = schema
    for part in path:
        try:
            rule = rule[part]
        except (KeyError, IndexError, TypeError):
            return "what its schema says"
    text = json.dumps(rule)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
