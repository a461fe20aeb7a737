"""Budgets: what a call costs is taken at once or not at all, and counted once it lands.

What a call costs is taken before it acts and never given back, however it ends: a failed call may
have acted, and after a crash nobody knows. Seconds are not known beforehand, so calls in flight
count with what they have taken so far; no call starts once that reaches the limit, and those that
run are not cut off, so a task may overdraw by what its calls in flight still take.

A call of a delegated task is taken from every task of its chain, from all of them or from none.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from remit.model.call import Call
from remit.model.errors import ConflictError, MandateError
from remit.model.label import Label
from remit.model.mandate import Spent
from remit.model.task import Task
from remit.tasks import bounds
from remit.tasks.live import LiveTask


def take(live: LiveTask, call: Call, now: datetime) -> None:
    """Take what a call costs from a task and all above it, and mark it in flight there.

    Raises:
        MandateError: another call took the rest, or the cost cannot be counted.
        ConflictError: the call is in flight already.
    """
    if call.id in live.in_flight:
        raise ConflictError(f"call `{call.id}` is in flight already")
    spent = [(each, _with(each, call, now)) for each in live.chain]
    for each, task in spent:
        each.task = task
        each.in_flight[call.id] = now
        each.idle.clear()


def _with(live: LiveTask, call: Call, now: datetime) -> Task:
    """Return a task with a call's cost taken from it.

    Raises:
        MandateError: there is not enough left, or the cost cannot be counted.
    """
    task = live.task
    limits = (*task.mandate.budget.amounts, *task.template.budget.amounts)
    if unclear := bounds.uncountable(limits, call):
        raise MandateError("; ".join(unclear))
    over = bounds.exhausted(task, call, running_seconds=live.running_seconds(now))
    if over:
        raise MandateError(f"the task's budget is spent: {', '.join(over)}")
    amounts = dict(task.spent.amounts)
    for name, amount in bounds.costs(limits, call).items():
        amounts[name] = bounds.add(amounts.get(name, Decimal(0)), amount)
    spent = Spent(calls=task.spent.calls + 1, seconds=task.spent.seconds, amounts=amounts)
    return replace(task, spent=spent)


def land(live: LiveTask, call: Call, *, seconds: float, label: Label) -> None:
    """End the flight of a call: add the seconds it took, join the label of what it touched.

    Both reach every task above at once: whoever delegated is told what was found.
    """
    for each in live.chain:
        del each.in_flight[call.id]
        task = each.task
        spent = replace(task.spent, seconds=task.spent.seconds + max(seconds, 0.0))
        each.task = replace(task, label=task.label.join(label), spent=spent)
        if not each.in_flight:
            each.idle.set()
