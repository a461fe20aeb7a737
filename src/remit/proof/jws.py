"""Mandate signatures: compact JWS with ES256 (RFC 7515, RFC 7518 section 3.4), strictly.

Rules: the header is exactly ``alg``, ``kid`` and ``typ``; the key comes from the JWKS beside it and
never from the header, where its name is its RFC 7638 thumbprint; every base64url text has its one
spelling.

A signature alone does not say whose it is: from an ECDSA signature anybody can compute a second key
that it verifies under. The thumbprint in what was signed does, since no other key has it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from remit.model.errors import ProofError
from remit.proof.encoding import canonical, parse_strict

MANDATE_TYP = "remit-mandate+jwt"
MAX_JWS_BYTES = 32_768

_COORDINATE_BYTES = 32
_SEGMENTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwk:
    """One public signing key (RFC 7517, RFC 7518 section 6.2): P-256, for ES256, and no more."""

    kid: str
    x: str
    y: str

    @classmethod
    def parse(cls, value: object) -> Jwk:
        """Read a key, which has exactly the members that :attr:`document` has.

        Raises:
            ProofError: it is another kind of key, or holds more or less.
        """
        if not isinstance(value, Mapping):
            raise ProofError("a key is an object")
        kid, x, y = value.get("kid"), value.get("x"), value.get("y")
        if not isinstance(kid, str) or not isinstance(x, str) or not isinstance(y, str):
            raise ProofError("a key has a kid, an x and a y")
        key = cls(kid=kid, x=x, y=y)
        if dict(value) != key.document:
            raise ProofError(
                f"key `{kid}` is not a public P-256 key for ES256 signatures, and no more"
            )
        return key

    @property
    def document(self) -> dict[str, str]:
        """The key as JWK."""
        fixed = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig"}
        return {**fixed, "kid": self.kid, "x": self.x, "y": self.y}

    @property
    def thumbprint(self) -> str:
        """The key's RFC 7638 thumbprint, base64url: the ``kid`` that signatures name it by."""
        required = {"crv": "P-256", "kty": "EC", "x": self.x, "y": self.y}
        return _base64url(hashlib.sha256(canonical(required)).digest())


class _Registry(jws.JWSRegistry):
    max_header_length = 1024
    max_payload_length = MAX_JWS_BYTES


_REGISTRY = _Registry(algorithms=["ES256"])


def kid_of(token: str) -> str:
    """Return the key id that a JWS names; nothing is verified yet.

    Raises:
        ProofError: it is not a compact JWS with the header of a mandate.
    """
    return str(_header(token, MANDATE_TYP)["kid"])


def verify_jws(
    token: str, keys: Sequence[Jwk], *, typ: str = MANDATE_TYP
) -> tuple[Mapping[str, Any], Jwk]:
    """Return the claims of a compact JWS and the key it verifies under.

    Times in it are not looked at: a mandate is read long after it expired.

    Raises:
        ProofError: it is malformed, of another type, signed with another algorithm or by a key that
            is not among ``keys``, the key is not the one whose thumbprint the header names, or the
            signature does not hold.
    """
    header = _header(token, typ)
    named = [key for key in keys if key.kid == header["kid"]]
    if len(named) != 1:
        raise ProofError(f"{len(named)} keys are named `{header['kid']}`, as the signature says")
    if named[0].thumbprint != header["kid"]:
        raise ProofError("the key is not the one whose thumbprint the mandate names")
    try:
        jws.deserialize_compact(token, _import(named[0]), registry=_REGISTRY)
    except (JoseError, ValueError) as error:
        raise ProofError("the mandate's signature does not verify") from error
    claims = parse_strict(_unbase64url(token.split(".")[1]))
    if not isinstance(claims, dict):
        raise ProofError("a mandate's claims are an object")
    return claims, named[0]


def _header(token: str, typ: str) -> Mapping[str, Any]:
    match = _SEGMENTS.match(token)
    if len(token) > MAX_JWS_BYTES or match is None:
        raise ProofError(f"a mandate is a compact JWS of at most {MAX_JWS_BYTES} bytes")
    for segment in match.groups():
        _unbase64url(segment)
    header = parse_strict(_unbase64url(match[1]))
    if not isinstance(header, dict) or header.keys() != {"alg", "kid", "typ"}:
        raise ProofError("a mandate's header is exactly alg, kid and typ")
    if header["alg"] != "ES256" or header["typ"] != typ or not isinstance(header["kid"], str):
        raise ProofError(f"a mandate is `{typ}`, signed with ES256 by a named key")
    return header


def _import(key: Jwk) -> ECKey:
    for coordinate in (key.x, key.y):
        if len(_unbase64url(coordinate)) != _COORDINATE_BYTES:
            raise ProofError(f"key `{key.kid}` is not a point of P-256")
    try:
        return ECKey.import_key({"kty": "EC", "crv": "P-256", "x": key.x, "y": key.y})
    except (JoseError, ValueError) as error:
        raise ProofError(f"key `{key.kid}` is not a point of P-256") from error


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64url(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProofError("a mandate or key is not base64url") from error
    if _base64url(data) != text:
        raise ProofError("base64url has one spelling, without padding")
    return data
