"""One call held against a whole chain of delegated tasks: each mandate and template bounds it.

No mandate is compared with another. A call is allowed where every one of them allows it, whatever
the one that was signed last claims to hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from remit.model.call import Call
from remit.model.task import Bounds, Task
from remit.tasks import bounds


def measure(chain: Sequence[tuple[Task, float]], call: Call) -> Bounds:
    """Return how ``call`` stands against every task of a chain, as the strictest says.

    Args:
        chain: each task, with the seconds that its calls in flight have taken so far.
        call: what is to be done.
    """
    each = [bounds.measure(task, call, running_seconds=running) for task, running in chain]
    if len(each) == 1:
        return each[0]
    roles = list(dict.fromkeys(one.approval_role for one in each if one.approval_role))
    violations = dict.fromkeys(said for one in each for said in one.violations)
    if len(roles) > 1:
        named = ", ".join(bounds.shown(role) for role in roles)
        violations[
            f"the chain of mandates asks approval from {named}: no one approval would do for all"
        ] = None
    left = [one.calls_left for one in each if one.calls_left is not None]
    return Bounds(
        in_template=all(one.in_template for one in each),
        in_mandate=all(one.in_mandate for one in each),
        violations=bounds.shortened(list(violations)),
        exhausted=tuple(dict.fromkeys(name for one in each for name in one.exhausted)),
        approval_role=roles[0] if roles else None,
        calls_left=min(left) if left else None,
    )
