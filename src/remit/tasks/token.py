"""The task token: what an agent sends with each call, and nobody else can use.

A JWT (RFC 7519) of type ``remit-task+jwt``. ``sub`` is the only workload that may present it;
``cnf`` (RFC 7800) may bind it to a key as well. It says which task, and nothing of what it may do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remit.model.errors import MandateError, UnidentifiedError
from remit.model.record import Json
from remit.model.subject import Claim, Subject
from remit.model.task import OWN_KEY, Task
from remit.tasks.ports import Signer

TOKEN_TYP = "remit-task+jwt"  # noqa: S105 - a media type, not a secret
AUDIENCE = "remit"


@dataclass(frozen=True, slots=True)
class TaskToken:
    """A token that this authority signed: its task, the workload it is for, and the key if any."""

    task: str
    workload: str
    key: str | None


def issue_token(signer: Signer, task: Task) -> str:
    """Return a token for a task's own workload, until the task expires."""
    mandate = task.mandate
    claims: dict[str, Json] = {
        "iss": f"spiffe://{signer.name}",
        "aud": AUDIENCE,
        "sub": str(mandate.workload),
        "task": task.id,
        "iat": int(mandate.issued_at.timestamp()),
        "exp": int(mandate.expires_at.timestamp()),
    }
    if task.key is not None and task.key != OWN_KEY:
        claims["cnf"] = {"jkt": task.key}
    return signer.sign(claims, typ=TOKEN_TYP)


def token_of(claim: Claim, subject: Subject, signer: Signer) -> TaskToken:
    """Return the task token that a claim carries, if it is this subject's.

    Raises:
        MandateError: there is none, it does not hold, or it is another workload's.
    """
    if claim.task_token is None:
        raise MandateError(
            "no task: send the task token as `Remit-Task`, or begin a task with `remit_begin_task`"
        )
    try:
        token = read_token(signer, claim.task_token)
    except UnidentifiedError as error:
        raise MandateError("the task token does not hold: open a new task") from error
    if token.workload != str(subject.workload):
        raise MandateError(
            "the task token was issued to another workload: it is of no use to this one"
        )
    return token


def read_token(signer: Signer, token: str) -> TaskToken:
    """Check a token's signature and shape; whether its task is open is the desk's to say.

    Raises:
        UnidentifiedError: the token is malformed, foreign, or of another type.
    """
    claims = signer.verify(token, typ=TOKEN_TYP)
    task, workload = claims.get("task"), claims.get("sub")
    if claims.get("aud") != AUDIENCE or not isinstance(task, str) or not isinstance(workload, str):
        raise UnidentifiedError("the task token lacks a claim")
    if claims.get("iss") != f"spiffe://{signer.name}":
        raise UnidentifiedError("the task token is another authority's")
    return TaskToken(task, workload, _key(claims))


def _key(claims: Mapping[str, Json]) -> str | None:
    """Return the thumbprint of the key that the token is bound to."""
    if "cnf" not in claims:
        return None
    binding = claims["cnf"]
    key = binding.get("jkt") if isinstance(binding, Mapping) and len(binding) == 1 else None
    if not isinstance(key, str):
        raise UnidentifiedError("the task token is bound in a way that remit cannot check")
    return key
