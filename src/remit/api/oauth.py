"""Remit as an issuer of access tokens: metadata, keys, introspection, revocation.

RFC 8414 and OpenID Connect Discovery for whoever trusts an issuer by its address; RFC 7662 and
RFC 7009 for a resource server, which shows itself by a token of its own (a workload's SVID, or one
of a configured issuer). An answer about a token that is not alive says nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import MAX_BODY_BYTES, Handler, answer, guarded
from remit.api.callers import Callers
from remit.identity.trust_domain import REFRESH_HINT_SECONDS
from remit.model.errors import InputError, UnidentifiedError
from remit.model.lease import Lease
from remit.model.subject import Person, Subject
from remit.spine import Authority

_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What the app knows of the tokens that Remit signs.

    ``verify`` returns a token's claims or raises UnidentifiedError; ``active`` says of a ``jti`` and
    of who asks whether that resource should take it; ``jwks`` returns the keys.
    """

    issuer: str
    verify: Callable[[str], Mapping[str, Any]]
    active: Callable[[str, str], bool]
    jwks: Callable[[], Mapping[str, Any]]


def routes(tokens: Tokens, authority: Authority, callers: Callers) -> list[Route]:
    """Return the issuer's routes; metadata and keys are public."""
    metadata = _metadata(tokens.issuer)

    async def described(request: Request) -> Response:  # noqa: ARG001 - a route takes its request
        return _kept(metadata)

    async def keys(request: Request) -> Response:  # noqa: ARG001 - as above
        return _kept(tokens.jwks())

    async def introspect(request: Request) -> Response:
        asker = _name(await callers.person_or_agent(request))
        claims = _claims(await _token(request), tokens, asker)
        if claims is None:
            return answer({"active": False})
        return answer({**claims, "active": True, "token_type": _type(claims)})

    async def revoke(request: Request) -> Response:
        asker = _name(await callers.person_or_agent(request))
        claims = _claims(await _token(request), tokens, asker)
        lease = None if claims is None else _lease(str(claims["jti"]), authority)
        if lease is not None:
            await authority.leases.revoke(lease.id, asker)
        # A token that is unknown or over is no error (RFC 7009 section 2.2).
        return Response(status_code=200, headers={"cache-control": "no-store"})

    return [
        Route("/.well-known/oauth-authorization-server", guarded(described), methods=["GET"]),
        Route("/.well-known/openid-configuration", guarded(described), methods=["GET"]),
        Route("/oauth/jwks", guarded(keys), methods=["GET"]),
        Route("/oauth/introspect", _formed(introspect), methods=["POST"]),
        Route("/oauth/revoke", _formed(revoke), methods=["POST"]),
    ]


def _formed(handler: Handler) -> Handler:
    """Answer a form that makes no sense as OAuth clients read it (RFC 6749 section 5.2)."""

    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except InputError as error:
            return answer({"error": "invalid_request", "error_description": str(error)}, 400)

    return guarded(run)


def _kept(document: object) -> Response:
    """Return what everybody may keep for a while: a key is published long before it signs."""
    told = answer(document)
    told.headers["cache-control"] = f"public, max-age={REFRESH_HINT_SECONDS}"
    return told


def _name(asker: Person | Subject) -> str:
    return asker.id if isinstance(asker, Person) else str(asker.workload)


def _metadata(issuer: str) -> dict[str, Any]:
    at = issuer.rstrip("/")
    return {
        "issuer": issuer,
        "jwks_uri": f"{at}/oauth/jwks",
        "introspection_endpoint": f"{at}/oauth/introspect",
        "introspection_endpoint_auth_methods_supported": ["Bearer", "DPoP"],
        "revocation_endpoint": f"{at}/oauth/revoke",
        # Nobody logs in here and no token is asked for over the wire: the gateway mints. But the
        # member is required and may not be empty (RFC 8414 sections 2 and 3.2); other issuers that
        # only sign for workloads say the same.
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "authorization_details_types_supported": ["dev.remit/call"],
        "tls_client_certificate_bound_access_tokens": True,  # RFC 8705 section 3.3
    }


async def _token(request: Request) -> str:
    """Return the form's one ``token``.

    Raises:
        InputError: it is not a form, is too long, or does not hold exactly one token.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise InputError(f"the body has to be `{_FORM}`")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise InputError(f"the body is longer than {MAX_BODY_BYTES} bytes")
    try:
        form = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=8)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError("the body is not a form") from error
    found = form.get("token", [])
    if len(found) != 1:
        raise InputError("the form has to hold one `token`")
    return found[0]


def _claims(token: str, tokens: Tokens, asker: str) -> Mapping[str, Any] | None:
    """Return the claims of a token that this resource should take, or None."""
    try:
        claims = tokens.verify(token)
    except (UnidentifiedError, InputError):
        return None
    handle = claims.get("jti")
    return claims if isinstance(handle, str) and tokens.active(handle, asker) else None


def _type(claims: Mapping[str, Any]) -> str:
    bound = claims.get("cnf")
    # One that is bound to a client certificate is a bearer token by its type (RFC 8705 section 3).
    return "DPoP" if isinstance(bound, Mapping) and "jkt" in bound else "Bearer"


def _lease(handle: str, authority: Authority) -> Lease | None:
    leases = authority.leases.open_leases()
    return next((lease for lease in leases if lease.handle == handle), None)
