"""Who may come in: host and origin, identity, the session's binding, the RFC 9728 challenge."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from remit.gateway.options import GatewayOptions
from remit.gateway.upstream import Upstream
from remit.gateway.wire import Head, ProtocolError
from remit.identity.dpop import challenge as challenge_of
from remit.identity.jose import ALGORITHMS
from remit.model.errors import MandateError, RemitError, UnidentifiedError
from remit.model.record import Context
from remit.model.subject import Claim, Possession, Subject
from remit.model.task import Task
from remit.spine import Authority

WELL_KNOWN = "/.well-known/oauth-protected-resource"
"""RFC 9728 section 3: the resource's path follows it."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of one identified caller to one upstream."""

    head: Head
    claim: Claim
    subject: Subject
    upstream: Upstream

    @property
    def owner(self) -> str:
        """Whose sessions and processes it may use: the workload, whatever token proved it."""
        return str(self.subject.workload)

    @property
    def name(self) -> str:
        """The upstream's name."""
        return self.upstream.options.name


class ForbiddenError(RemitError):
    """The request comes from a web page, or for a host, that the gateway does not serve."""

    status = 403
    code = "forbidden"


def require_place(head: Head, options: GatewayOptions) -> None:
    """Refuse what DNS rebinding looks like (MCP basic/transports, security).

    Raises:
        ForbiddenError: the Host header is absent or unknown, or there is an unknown Origin.
    """
    host = head.one(b"host")
    if host is None or not _listed(host, options.allowed_hosts):
        raise ForbiddenError("this host is not served here")
    origin = head.one(b"origin")
    if origin is not None and not _listed(origin, options.allowed_origins):
        raise ForbiddenError("this origin may not call the gateway")


def _listed(value: str, allowed: tuple[str, ...]) -> bool:
    value = value.lower()
    for each in allowed:
        if value == each:
            return True
        if each.endswith(":*"):
            base, port = each[:-2], value[len(each) - 2 :]
            if value == base or (value.startswith(f"{base}:") and port[1:].isdecimal()):
                return True
    return False


def claim_of(head: Head, certificate: bytes | None, options: GatewayOptions) -> Claim:
    """Return what the caller presented: a token or a client certificate, a task token, a proof.

    Raises:
        UnidentifiedError: neither was presented, or the header holds no token of a known scheme.
    """
    header = head.one(b"authorization")
    bearer, scheme = None, ""
    if header is not None:
        scheme, _, bearer = header.partition(" ")
        bearer = bearer.strip()
        if scheme.lower() not in {"bearer", "dpop"} or not bearer:
            raise UnidentifiedError("the authorization header holds no bearer or dpop token")
    elif certificate is None:
        raise UnidentifiedError("no identity was presented: send a bearer token")
    return Claim(
        bearer=bearer,
        as_dpop=scheme.lower() == "dpop",
        possession=Possession(
            proofs=tuple(v.decode("latin-1") for k, v in head.headers if k == b"dpop"),
            method=head.method,
            path=head.path,
        ),
        certificate=certificate,
        task_token=head.one(b"remit-task"),
        session=head.session,
        audience=options.audience,
    )


def certificate_of(scope: Any) -> bytes | None:
    """Return the client's certificate (DER) where the server's TLS asked for one (ASGI ``tls``)."""
    tls = scope.get("extensions", {}).get("tls") or {}
    chain = tls.get("client_cert_chain") or ()
    first = next(iter(chain), None)
    if isinstance(first, bytes):
        return first
    if isinstance(first, str):
        import ssl  # noqa: PLC0415 - only where TLS client certificates are used

        return ssl.PEM_cert_to_DER_cert(first)
    return None


async def identify(claim: Claim, authority: Authority) -> tuple[Claim, Subject]:
    """Return who calls, and the claim as it holds for the rest of this request.

    An identity, or a proof of possession, that does not hold leaves a record.

    Raises:
        UnidentifiedError: it does not hold.
        EvidenceError: the refusal could not be recorded.
    """
    try:
        return await authority.identity.receive(claim)
    except UnidentifiedError as error:
        authority.evidence.stage(error.record(), Context())
        await authority.evidence.barrier()
        raise


async def task_of(claim: Claim, subject: Subject, authority: Authority) -> str | None:
    """Return the id of the task whose token the claim carries, or None where it carries none.

    Raises:
        MandateError: it carries one that admits nothing; this leaves a record.
        EvidenceError: the refusal could not be recorded.
    """
    if claim.task_token is None:
        return None
    return (await admit(claim, subject, authority)).id


async def admit(claim: Claim, subject: Subject, authority: Authority) -> Task:
    """Return the claim's task where no call follows that would record the refusal.

    Raises:
        MandateError: the claim's task token admits nothing; this leaves a record.
        EvidenceError: the refusal could not be recorded.
    """
    async with recorded(authority):
        return await authority.tasks.admit(claim, subject)
    raise AssertionError  # pragma: no cover - the block above returns or raises


@contextlib.asynccontextmanager
async def recorded(authority: Authority) -> AsyncIterator[None]:
    """Leave a record of what is refused for want of a mandate, durable before it is told.

    Raises:
        EvidenceError: the refusal could not be recorded.
    """
    try:
        yield
    except MandateError as error:
        authority.evidence.stage(error.record(), Context())
        await authority.evidence.barrier()
        raise


def origin_of(head: Head, scope: Any, options: GatewayOptions) -> str:
    """Return the origin under which clients know the gateway, without a slash at its end."""
    if options.public_url is not None:
        return options.public_url.rstrip("/")
    return f"{scope.get('scheme', 'http')}://{head.one(b'host')}"


def challenge(error: UnidentifiedError, origin: str, upstream: str, *, presented: bool) -> str:
    """Return the ``WWW-Authenticate`` value (RFC 6750 section 3, RFC 9728 section 5.1)."""
    # The name is the path's, decoded: whatever it holds may end neither the value nor the header.
    where = f'resource_metadata="{origin}{WELL_KNOWN}/mcp/{quote(upstream, safe="")}"'
    return challenge_of(error, where, invalid=presented)


def metadata(origin: str, upstream: str, options: GatewayOptions) -> bytes:
    """Return the protected resource's metadata (RFC 9728 section 2)."""
    document: dict[str, Any] = {
        "resource": f"{origin}/mcp/{upstream}",
        "resource_name": f"Remit gateway to {upstream}",
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": sorted(ALGORITHMS),
    }
    if options.authorization_servers:
        document["authorization_servers"] = list(options.authorization_servers)
    return msgspec.json.encode(document)


def require_json(head: Head) -> None:
    """Refuse a body that is not sent as plain JSON in UTF-8.

    An upstream that heeds another charset or coding would read other words than we did.

    Raises:
        ProtocolError: with HTTP 415.
    """
    media, *parameters = (head.one(b"content-type") or "").lower().split(";")
    if media.strip() != "application/json":
        raise ProtocolError("the content type has to be application/json", http_status=415)
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in {"utf-8", "utf8"}:
            raise ProtocolError("the body has to be in utf-8", http_status=415)
    if (head.one(b"content-encoding") or "identity").lower() != "identity":
        raise ProtocolError("the body may not be compressed", http_status=415)
