"""Who asks on a control route: the owner on the Unix socket, a person or an agent on TCP.

The embedded authority has no password: whoever connects to its Unix socket is known by the
kernel's word (uid), and an agent's own process is refused there. On TCP every control route wants
a token of a configured issuer, and a task's own routes also take the agent's SVID.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from remit.identity.desk import Identity
from remit.identity.dpop import InvalidProofError
from remit.model.errors import RemitError, UnidentifiedError
from remit.model.subject import Claim, Person, Possession, Subject

OPERATOR = "operator"
"""The role that may change things; the owner on the socket holds every role."""
ADMIN = "admin"
"""The owner's role."""


def holds_operator(person: Person) -> bool:
    """Say whether a person may change what is others'; the owner holds every role."""
    return not {OPERATOR, ADMIN}.isdisjoint(person.roles)


class NoTokenError(UnidentifiedError):
    """The request shows nobody: there is not exactly one token."""


class ForbiddenError(RemitError):
    """The caller is known, but may not do this."""

    status = 403
    code = "forbidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Turns a request into a person or a subject.

    ``owner`` returns the owner where the request came over the control socket from the owner's
    process, None where it came over TCP, and raises where it came over the socket from anyone else.
    """

    identity: Identity
    owner: Callable[[Request], Person | None]
    audience: str

    async def person(self, request: Request) -> Person:
        """Return who asks.

        Raises:
            UnidentifiedError: no token, or one that does not hold.
        """
        owner = self.owner(request)
        if owner is not None:
            return owner
        claim = _claim(request, self.audience)
        try:
            person = await self.identity.receive_person(claim)
        except UnidentifiedError as error:
            await self.identity.refuse(error)
            raise
        request.state.asker = person.id
        return person

    async def operator(self, request: Request) -> Person:
        """Return who asks, if that person may change things.

        Raises:
            UnidentifiedError: no token, or one that does not hold.
            ForbiddenError: the person does not hold the operator's role.
        """
        person = await self.person(request)
        if OPERATOR not in person.roles and self.owner(request) is None:
            raise ForbiddenError(f"`{person.id}` does not hold the role `{OPERATOR}`")
        return person

    async def person_or_agent(self, request: Request) -> Person | Subject:
        """Return the person, or the workload, that asks about tasks.

        Raises:
            UnidentifiedError: neither could be shown.
        """
        owner = self.owner(request)
        if owner is not None:
            return owner
        claim = _claim(request, self.audience)
        try:
            subject = (await self.identity.receive(claim))[1]
        except UnidentifiedError as not_an_agent:
            try:
                person = await self.identity.receive_person(claim)
            except UnidentifiedError as error:
                told = error if isinstance(error, InvalidProofError) else not_an_agent
                await self.identity.refuse(told)
                raise told from None
            request.state.asker = person.id
            return person
        request.state.asker = str(subject.workload)
        return subject


def _claim(request: Request, audience: str) -> Claim:
    """Return what the request presents.

    Raises:
        UnidentifiedError: there is not exactly one token.
    """
    values = request.headers.getlist("authorization")
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() not in {"bearer", "dpop"} or not token.strip():
        raise NoTokenError(
            "this route wants one `Authorization` header, `Bearer` or `DPoP`, with a token of a "
            "configured issuer"
        )
    return Claim(
        bearer=token.strip(),
        as_dpop=scheme.lower() == "dpop",
        possession=Possession(
            proofs=tuple(request.headers.getlist("dpop")),
            method=request.method,
            path=request.scope["path"],
        ),
        audience=audience,
    )
