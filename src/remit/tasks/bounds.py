"""How one call stands against the mandate, the template in force and the budget: measured.

Sentences name the argument and the rule, never the value: they enter evidence and refusals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from remit.model.call import CALL_TOOL, Call
from remit.model.mandate import AmountLimit, Budget, Capability, Spent
from remit.model.task import Bounds, Task
from remit.tasks.keys import parse_amount
from remit.tasks.mandates import covers
from remit.tasks.schemas import compile_schema, is_pinned

_SHOWN = 80
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


def measure(task: Task, call: Call) -> Bounds:
    """Return how ``call`` stands against ``task``, whose ``spent`` is what is used up already."""
    mandate, template = task.mandate, task.template
    asked = [c for c in mandate.capabilities if covers(c, call.action, call.target)]
    allowed = [c for c in template.capabilities if covers(c, call.action, call.target)]
    first, said = _best(asked, call)
    second, bound = _best(allowed, call)
    limits = (*mandate.budget.amounts, *template.budget.amounts)
    violations = dict.fromkeys((*said, *bound, *_uncountable(limits, call)))
    role = (second.approval if second else None) or (first.approval if first else None)
    calls = [b.calls for b in (mandate.budget, template.budget) if b.calls is not None]
    return Bounds(
        in_template=bool(allowed),
        in_mandate=bool(asked),
        violations=tuple(violations),
        exhausted=exhausted(task, call),
        approval_role=role,
        calls_left=max(0, min(calls) - task.spent.calls) if calls else None,
    )


def exhausted(task: Task, call: Call) -> tuple[str, ...]:
    """Name each part of the mandate's or the template's budget that this call would exceed."""
    found: dict[str, None] = {}
    for budget in (task.mandate.budget, task.template.budget):
        found |= dict.fromkeys(_exceeded(budget, task.spent, call))
    return tuple(found)


def costs(limits: Sequence[AmountLimit], call: Call) -> Mapping[str, Decimal]:
    """Return what a call adds to each named amount; what cannot be counted adds nothing here.

    :func:`measure` reports the uncountable as a violation, so such a call is never permitted.
    """
    found: dict[str, Decimal] = {}
    for name, target, argument in {(a.name, a.target, a.argument) for a in limits}:
        if call.action == CALL_TOOL and call.target == target:
            amount = parse_amount(call.arguments.get(argument))
            found[name] = found.get(name, Decimal(0)) + (amount or Decimal(0))
    return found


def _exceeded(budget: Budget, spent: Spent, call: Call) -> list[str]:
    found = []
    if budget.calls is not None and spent.calls + 1 > budget.calls:
        found.append("calls")
    if budget.seconds is not None and spent.seconds >= budget.seconds:
        found.append("seconds")
    adds = costs(budget.amounts, call)
    limits = {limit.name: limit.limit for limit in budget.amounts}
    for name, amount in adds.items():
        if spent.amounts.get(name, Decimal(0)) + amount > limits[name]:
            found.append(name)
    return found


def _uncountable(limits: Sequence[AmountLimit], call: Call) -> list[str]:
    return [
        f"argument `{limit.argument}` counts towards the budget `{limit.name}` "
        "and has to be an amount"
        for limit in limits
        if call.action == CALL_TOOL
        and call.target == limit.target
        and parse_amount(call.arguments.get(limit.argument)) is None
    ]


def _best(
    capabilities: Sequence[Capability], call: Call
) -> tuple[Capability | None, tuple[str, ...]]:
    best: tuple[Capability | None, tuple[str, ...]] = (None, ())
    for capability in capabilities:
        said = _violations(capability, call.arguments)
        if not said:
            return capability, ()
        if best[0] is None or len(said) < len(best[1]):
            best = (capability, said)
    return best


def _violations(capability: Capability, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    said = []
    for name, value in arguments.items():
        if name in capability.args:
            said.extend(_breaks(name, capability.args[name], value))
        elif not capability.other_args:
            said.append(f"argument `{name[:_SHOWN]}` is not allowed")
    for name, schema in capability.args.items():
        if name not in arguments and is_pinned(schema):
            said.append(f"argument `{name}` has to be given")
    return tuple(said)


def _breaks(name: str, schema: Any, value: Any) -> list[str]:
    validator = compile_schema(schema)
    if validator.is_valid(value):
        return []
    error = next(iter(validator.iter_errors(value)))
    path = list(error.schema_path)
    keyword = next((str(part) for part in reversed(path) if isinstance(part, str)), "schema")
    rule = schema
    for part in path:
        try:
            rule = rule[part]
        except (KeyError, IndexError, TypeError):
            rule = None
            break
    shown = json.dumps(rule, ensure_ascii=False)[:_SHOWN]
    where = "".join(f"[{part}]" for part in error.instance_path)
    words = _WORDS.get(keyword, f"breaks the rule `{keyword}`")
    return [f"argument `{name}{where}` {words.format(shown)}"]
