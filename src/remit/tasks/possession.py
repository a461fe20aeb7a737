"""Which key a task is bound to, and who may act under it (RFC 7800, RFC 9449).

A bound task is no use to whoever captured what its agent sends: each request under it needs a fresh
proof by the key. The key is named when the task is opened, or is the first one that is shown under
it: a task token that a person handed over belongs to whoever begins to work with it, and can be
handed over once.

An agent can also hold identity tokens that are bound to a key themselves. Then nothing it sends is
good without a key, and its processes may each have their own: such a task is bound to
``OWN_KEY``, not to one of them.
"""

from __future__ import annotations

from remit.model.errors import InputError, MandateError
from remit.model.subject import Subject
from remit.model.task import OWN_KEY, Task
from remit.tasks.request import TaskRequest


def key_of(subject: Subject) -> str | None:
    """Return what a task becomes bound to by the proof that came with a request."""
    return OWN_KEY if subject.bound else subject.key


def key_asked(request: TaskRequest, shown: str | None, *, required: bool) -> str | None:
    """Return what a new task is bound to.

    Args:
        request: may name a key's thumbprint.
        shown: what the opener showed itself, where the opener is the agent.
        required: whether the opener has to show one.

    Raises:
        InputError: the request names another key than the one shown.
        MandateError: a proof is required, and none was shown.
    """
    named = request.key
    if required and shown is None:
        raise MandateError(
            "this authority opens a task only with a proof of possession: send one in `DPoP`"
        )
    if shown is not None and named is not None and shown != named:
        raise InputError("`confirmation` names another key than the proof of possession shows")
    return named or shown


def require_key(task: Task, subject: Subject, *, required: bool) -> None:
    """Raise unless the request came with a proof by the key that the task is bound to.

    Raises:
        MandateError: there was no proof, or one by another key.
    """
    if subject.key is None:
        if task.key is not None or required:
            raise MandateError(
                "the task is bound to a key: send a fresh proof of possession in `DPoP`"
                if task.key is not None
                else "this authority wants a proof of possession with every request: send `DPoP`"
            )
        return
    right = subject.bound if task.key == OWN_KEY else task.key in {None, subject.key}
    if not right:
        raise MandateError(
            "the task is bound to another key than the proof shows: "
            "open another task with this key, once this one is complete or its owner has ended it"
        )
