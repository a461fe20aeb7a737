"""What the broker `oauth` is told: its options and an upstream's grant, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from remit.credentials.tables import Seconds, read_table
from remit.model.errors import ConfigError

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a grant's name
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")
_MOST_TEXT = 2048
_OURS = frozenset(
    {
        *("grant_type", "client_id", "client_assertion", "client_assertion_type", "client_secret"),
        *("scope", "audience", "resource", "authorization_details", "requested_token_type"),
        *("subject_token", "subject_token_type", "actor_token", "actor_token_type", "assertion"),
    }
)
_CLAIMS = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "act", "may_act", "task"})


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[broker.NAME]``; docs/brokers/oauth.md says what each is for."""

    issuer: str
    client_id: str
    grant: Literal["client_credentials", "token_exchange", "jwt_bearer"] = "client_credentials"
    client_auth: Literal["private_key_jwt", "federated", "spiffe"] = "private_key_jwt"
    alg: Literal["ES256", "RS256", "PS256"] = "ES256"
    key_file: str | None = None
    assertion_audience: str | None = None
    subject_audience: str | None = None
    subject_claims: dict[str, str] = {}
    actor_token: bool = False
    requested_token_type: str | None = None
    parameters: dict[str, str] = {}
    bound: Literal["none", "dpop"] = "none"
    revocation: Literal["immediate", "at_expiry"] = "immediate"
    introspect: bool = True
    longest_seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 3600
    timeout_seconds: Seconds = 5.0
    ca_file: str | None = None


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[upstream.NAME.credential.grant]``."""

    scope: tuple[str, ...] | str = ()
    audience: tuple[str, ...] | str = ()
    resource: tuple[str, ...] | str = ()
    authorization_details: tuple[dict[str, Any], ...] = ()


def read_options(name: str, table: Mapping[str, Any]) -> Options:
    """Return a broker's options.

    Raises:
        ConfigError: they are not understood, or make no sense together.
    """
    where = f"`[broker.{name}]`"
    options = read_table(table, Options, where)
    require_address(f"{where}: `issuer`", options.issuer)
    if "?" in options.issuer:
        raise ConfigError(f"{where}: `issuer` is an address without a query")
    if not options.client_id.strip() or not options.client_id.isprintable():
        raise ConfigError(f"{where}: `client_id` is the name that remit is registered under there")
    if taken := sorted(options.parameters.keys() & _OURS):
        raise ConfigError(f"{where}: `parameters` may not set `{taken[0]}`: that is remit's word")
    if taken := sorted(options.subject_claims.keys() & _CLAIMS):
        raise ConfigError(
            f"{where}: `subject_claims` may not set `{taken[0]}`: that is remit's word"
        )
    if options.grant != "token_exchange" and (options.actor_token or options.requested_token_type):
        raise ConfigError(
            f"{where}: `actor_token` and `requested_token_type` belong to "
            '`grant = "token_exchange"` (RFC 8693)'
        )
    if options.client_auth != "private_key_jwt" and options.key_file is not None:
        raise ConfigError(
            f"{where}: a client that remit's own keys vouch for has no `key_file`: leave it out, or "
            'say `client_auth = "private_key_jwt"`'
        )
    return options


def check_grant(table: Mapping[str, Any]) -> None:
    """Look at a grant as it stands in the configuration, its references not filled in.

    Raises:
        ConfigError: an unknown key, a wrong type, or a text that references could turn into several.
    """
    grant = read_table(table, Grant)
    if isinstance(grant.scope, str) and "{" in grant.scope:
        # Filled in, it could not be told from several: an argument with a space in it is two.
        raise ConfigError("a `scope` with a reference in it has to be a list of scopes")


def fields(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the fields of the token request that a grant, filled in, asks for.

    Raises:
        ConfigError: an argument brought something that is no single scope, audience or resource.
    """
    check_grant(table)
    grant = read_table(table, Grant)
    found = _scopes(grant.scope)
    for each in _several(grant.audience):
        if not each.strip() or not each.isprintable() or len(each) > _MOST_TEXT:
            raise ConfigError(f"`{each[:80]}` is not an `audience`")
        found.append(("audience", each))
    for each in _several(grant.resource):
        _require_resource(each)
        found.append(("resource", each))
    if grant.authorization_details:
        for detail in grant.authorization_details:
            if not isinstance(detail.get("type"), str):
                raise ConfigError("each of `authorization_details` has a `type` (RFC 9396)")
        text = msgspec.json.encode(grant.authorization_details).decode()
        if len(text) > _MOST_TEXT * 4:
            raise ConfigError("`authorization_details` are too long")
        found.append(("authorization_details", text))
    return found


def require_address(what: str, text: str) -> None:
    """Refuse what is no https address, or http on loopback.

    Raises:
        ConfigError: it is something else; the message begins with ``what``.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    plain = parts.scheme == "http" and host in _LOOPBACK
    if not host or not (parts.scheme == "https" or plain) or "@" in parts.netloc or "#" in text:
        raise ConfigError(
            f"{what} is an https address (http on loopback alone), not `{text[:200]}`"
        )


def _scopes(wanted: Sequence[str] | str) -> list[tuple[str, str]]:
    scopes = wanted.split() if isinstance(wanted, str) else wanted
    for each in scopes:
        if not _SCOPE.match(each):
            raise ConfigError(f"`{each[:80]}` is not one scope")
    return [("scope", " ".join(scopes))] if scopes else []


def _require_resource(text: str) -> None:
    """RFC 8707 section 2: an absolute URI without a fragment."""
    fits = text.isascii() and text.isprintable() and len(text) <= _MOST_TEXT and " " not in text
    try:
        scheme = urlsplit(text).scheme
    except ValueError:
        scheme = ""
    if not fits or not scheme or "#" in text:
        raise ConfigError(f"`{text[:80]}` is not a `resource`: an absolute URI, no fragment")


def _several(value: Sequence[str] | str) -> Sequence[str]:
    return ([value] if value else []) if isinstance(value, str) else value
