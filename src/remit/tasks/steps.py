"""What evidence keeps of a task's opening and of its end."""

from __future__ import annotations

import json

from remit.model.record import Payload, Step
from remit.model.task import Task


def opened(task: Task, salt: bytes, prompt: str | None) -> Step:
    """Return the opening of a task: its mandate as signed, and its prompt apart, with the salt."""
    mandate = task.mandate
    kept = json.dumps({"salt": salt.hex(), "prompt": prompt}, ensure_ascii=False)
    return Step(
        kind="task.opened",
        body={
            "mandate": task.mandate_digest,
            "signed_mandate": task.signed_mandate,
            "agent": mandate.agent,
            "workload": str(mandate.workload),
            "template": mandate.template,
            "template_digest": mandate.template_digest,
            "on_behalf_of": mandate.on_behalf_of,
            "opened_by": mandate.opened_by,
            "prompt": mandate.prompt,
            "expires_at": mandate.expires_at.isoformat(),
            "key": task.key,
            "parent": None if mandate.parent is None else mandate.parent.task,
        },
        payloads=() if prompt is None else (Payload("prompt", kept.encode()),),
    )


def delegated(task: Task) -> Step:
    """Return what the parent's chain keeps of a task that is delegated from it."""
    mandate = task.mandate
    return Step(
        kind="task.delegated",
        body={
            "child": task.id,
            "child_mandate": task.mandate_digest,
            "agent": mandate.agent,
            "workload": str(mandate.workload),
            "opened_by": mandate.opened_by,
        },
    )


def bound(task: Task) -> Step:
    """Return the binding of a task to the first key that was shown under it."""
    return Step(kind="task.bound", body={"mandate": task.mandate_digest, "key": task.key})


def ended(task: Task) -> Step:
    """Return the end of a task, and what it used up."""
    return Step(
        kind=f"task.{task.state.value}",
        body={
            "mandate": task.mandate_digest,
            "closed_by": task.closed_by,
            "ended_with": task.ended_with,
            "calls": task.spent.calls,
            "milliseconds": round(task.spent.seconds * 1000),
            "amounts": {name: str(amount) for name, amount in task.spent.amounts.items()},
        },
    )
