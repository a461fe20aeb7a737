"""SPIFFE bundles: what a trust domain's documents are verified with (SPIFFE-Trust-Domain-and-Bundle).

The trust domain's name is known beforehand and never taken from the document. A document that
breaks a rule is refused whole; keys of an unknown ``use`` are ignored, as section 4.2.2 asks; an
empty key set is valid and vouches for nobody.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from remit.identity.jose import PublicKey, by_kid, import_key, strict_object
from remit.model.errors import ConfigError, InputError, UnidentifiedError
from remit.model.subject import SpiffeId

DEFAULT_REFRESH_SECONDS = 300
"""How often to ask for a bundle without a hint (SPIFFE-Trust-Domain-and-Bundle section 4.1.2)."""
MAX_BUNDLE_BYTES = 1024 * 1024
_MAX_KEYS = 256


def require_name(trust_domain: str) -> str:
    """Return a trust domain's name as it was given (SPIFFE-ID section 2.1).

    Raises:
        ConfigError: it is not a valid one.
    """
    try:
        if SpiffeId.parse(f"spiffe://{trust_domain}") == SpiffeId(trust_domain):
            return trust_domain
    except InputError:
        pass
    raise ConfigError(f"`{trust_domain}` is not a trust domain: lower-case a-z 0-9 . _ -")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """One trust domain's keys. Two bundles are the same only if they are the same object."""

    trust_domain: str
    sequence: int | None
    refresh_seconds: int
    jwt_keys: Mapping[str, PublicKey] = field(repr=False)
    authorities: tuple[x509.Certificate, ...] = field(repr=False)


def parse_bundle(trust_domain: str, data: bytes) -> Bundle:
    """Read a bundle document of ``trust_domain``.

    Raises:
        InputError: it is oversized, malformed, or one of its keys breaks a rule.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise InputError(f"the bundle of `{trust_domain}` is larger than {MAX_BUNDLE_BYTES} bytes")
    try:
        return _parse(trust_domain, strict_object(data, "the bundle"))
    except (UnidentifiedError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the bundle of `{trust_domain}` is not valid: {error}") from error


def _parse(trust_domain: str, document: Mapping[str, Any]) -> Bundle:
    keys = document.get("keys")
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise ValueError("it has no list of keys")
    if len(keys) > _MAX_KEYS:
        raise ValueError(f"it has more than {_MAX_KEYS} keys")
    sequence = _whole(document, "spiffe_sequence")
    hint = _whole(document, "spiffe_refresh_hint")
    return Bundle(
        trust_domain=trust_domain,
        sequence=sequence,
        refresh_seconds=DEFAULT_REFRESH_SECONDS if hint is None else hint,
        jwt_keys=by_kid(import_key(key) for key in keys if key.get("use") == "jwt-svid"),
        authorities=tuple(_authority(key) for key in keys if key.get("use") == "x509-svid"),
    )


def _whole(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"its `{name}` is not a whole number")
    return value


def _authority(key: Mapping[str, Any]) -> x509.Certificate:
    chain = key.get("x5c")
    if not isinstance(chain, list) or len(chain) != 1 or not isinstance(chain[0], str):
        raise ValueError("an x509-svid key needs exactly one certificate")
    try:
        return x509.load_der_x509_certificate(base64.b64decode(chain[0], validate=True))
    except (ValueError, binascii.Error) as error:
        raise ValueError("an x509-svid key has a malformed certificate") from error


def document(
    jwt_keys: Sequence[Mapping[str, str]],
    x509_keys: Sequence[Mapping[str, Any]],
    *,
    sequence: int,
    refresh_seconds: int,
) -> Mapping[str, Any]:
    """Return a bundle document; the keys are public JWKs, those of authorities with ``x5c``."""
    return {
        "keys": [
            *({**key, "use": "x509-svid"} for key in x509_keys),
            *({**key, "use": "jwt-svid"} for key in jwt_keys),
        ],
        "spiffe_sequence": sequence,
        "spiffe_refresh_hint": refresh_seconds,
    }
