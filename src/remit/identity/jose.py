"""Compact JWS, read strictly before any signature is looked at.

The rules it enforces, on top of joserfc's own:

- three base64url segments in their one canonical spelling, at most ``MAX_TOKEN_BYTES`` together;
- header and payload are JSON objects without duplicate keys, NaN or deep nesting;
- the algorithm comes from an allow-list of asymmetric ones and has to fit the key's type and
  curve, so ``none``, an HMAC over a public key and a wrong curve all end here (RFC 8725 3.1, 3.2);
- ``crit`` and ``b64`` are refused; ``jwk``, ``jku``, ``x5u`` and ``x5c`` are never looked at here,
  keys come only from where the operator pointed (RFC 8725 3.10). A proof of possession alone names
  its own key: see ``dpop.py``.

No message says anything of a token but the names of algorithms, headers and claims.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from remit.identity.roca import is_roca
from remit.model.errors import UnidentifiedError

MAX_TOKEN_BYTES = 16_384
MAX_NUMERIC_DATE = 253_402_300_799
"""The last second of the year 9999: what a datetime still holds."""
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}
)
"""What JWT-SVID section 2.1 allows; OIDC issuers are held to the same list."""

_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_SEGMENTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\Z")
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192
_MIN_EXPONENT = 3
_MAX_EXPONENT_BITS = 64
"""A larger one makes a check as dear as a signature, and in a proof anybody may name the key."""
_MAX_KID = 256
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


class _Registry(jws.JWSRegistry):
    """Our own limits; headers beyond the registered ones are left alone, as RFC 7515 4 asks."""

    max_header_length = 8192
    max_payload_length = MAX_TOKEN_BYTES
    max_signature_length = 2048


_REGISTRY = _Registry(algorithms=sorted(ALGORITHMS), strict_check_header=False)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A verification key and the algorithms that its type, curve and ``alg`` leave it."""

    kid: str
    algorithms: frozenset[str]
    key: ECKey | RSAKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token taken apart. Nothing in it may be believed before :func:`verify_signature`."""

    token: str = field(repr=False)
    digest: str
    header: Mapping[str, Any] = field(repr=False)
    payload: bytes = field(repr=False)

    @property
    def algorithm(self) -> str:
        """The header's algorithm, which is on the allow-list."""
        return str(self.header["alg"])

    @property
    def kid(self) -> str | None:
        """The header's key id."""
        value = self.header.get("kid")
        return value if isinstance(value, str) else None

    def claims(self) -> Mapping[str, Any]:
        """Return the payload as a claims set.

        Raises:
            UnidentifiedError: it is not one JSON object, or it repeats a key.
        """
        return strict_object(self.payload, "the token's payload")


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token, in hex; never the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def parse(token: str) -> Unverified:
    """Take a compact JWS apart (RFC 7515 section 7.1).

    Raises:
        UnidentifiedError: it breaks one of the module's rules.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise UnidentifiedError(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
    match = _SEGMENTS.match(token)
    if match is None:
        raise UnidentifiedError("the token is not a signed JWT in compact form")
    head, body, signature = match.groups()
    header = strict_object(_decode(head), "the token's header")
    payload = _decode(body)
    _decode(signature)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise UnidentifiedError(
            f"the token's algorithm `{_shown(algorithm)}` is not one that remit accepts"
        )
    for name in ("crit", "b64"):
        if name in header:
            raise UnidentifiedError(f"the token's header `{name}` is not supported")
    kid = header.get("kid", "")
    if not isinstance(kid, str) or len(kid) > _MAX_KID:
        raise UnidentifiedError("the token's key id is not a short string")
    return Unverified(token, digest_of(token), header, payload)


def verify_signature(token: Unverified, key: PublicKey) -> None:
    """Check a token's signature under exactly this key.

    Raises:
        UnidentifiedError: the key is not for the token's algorithm, or the signature does not hold.
    """
    if token.algorithm not in key.algorithms:
        raise UnidentifiedError(
            f"the token's algorithm `{token.algorithm}` does not fit the key `{_shown(key.kid)}`"
        )
    try:
        jws.deserialize_compact(token.token, key.key, registry=_REGISTRY)
    except (JoseError, ValueError, RecursionError) as error:
        raise UnidentifiedError("the token's signature does not hold") from error


def sign(claims: bytes, *, header: Mapping[str, str], key: ECKey) -> str:
    """Return the compact JWS of ``claims`` under ``key``, ES256.

    Args:
        claims: the payload's bytes.
        header: ``kid``, ``typ``.
        key: a P-256 private key.
    """
    return jws.serialize_compact({"alg": "ES256", **header}, claims, key, registry=_REGISTRY)


def import_key(jwk: Mapping[str, Any]) -> PublicKey:
    """Import one public key of a JWKS (RFC 7517) for verification.

    Raises:
        ValueError: it is private, weak, malformed, of another kind, or not for signatures.
    """
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not kid or len(kid) > _MAX_KID:
        raise ValueError("a key has no key id")
    if any(name in jwk for name in _PRIVATE):
        raise ValueError(f"key `{_shown(kid)}` is not a public key")
    operations = jwk.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise ValueError(f"key `{_shown(kid)}` is not for verifying")
    material = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk}
    if not all(isinstance(value, str) for value in material.values()):
        raise ValueError(f"key `{_shown(kid)}` is malformed")
    key, algorithms = _import(material, kid)
    pinned = jwk.get("alg")
    if pinned is not None:
        algorithms &= {pinned} if isinstance(pinned, str) else set()
    if not algorithms:
        raise ValueError(f"key `{_shown(kid)}` is for an algorithm that remit does not accept")
    return PublicKey(kid, algorithms, key)


def _import(material: Mapping[str, str], kid: str) -> tuple[ECKey | RSAKey, frozenset[str]]:
    try:
        if material.get("kty") == "EC":
            return _import_ec(material, kid)
        if material.get("kty") == "RSA":
            return _import_rsa(material, kid)
    except (JoseError, TypeError, KeyError, OverflowError, binascii.Error) as error:
        raise ValueError(f"key `{_shown(kid)}` is malformed") from error
    raise ValueError(f"key `{_shown(kid)}` is of a kind that remit does not accept")


def _import_ec(material: Mapping[str, str], kid: str) -> tuple[ECKey, frozenset[str]]:
    algorithm = _CURVES.get(material["crv"])
    if algorithm is None:
        raise ValueError(f"key `{_shown(kid)}` is on a curve that remit does not accept")
    key = ECKey.import_key({name: material[name] for name in ("kty", "crv", "x", "y")})
    _ = key.public_key  # raises where the point is not on the curve
    return key, frozenset({algorithm})


def _import_rsa(material: Mapping[str, str], kid: str) -> tuple[RSAKey, frozenset[str]]:
    modulus, exponent = (_number(material[name]) for name in ("n", "e"))
    if not _MIN_RSA_BITS <= modulus.bit_length() <= _MAX_RSA_BITS:
        raise ValueError(f"key `{_shown(kid)}` has {modulus.bit_length()} bits")
    fit = exponent >= _MIN_EXPONENT and exponent.bit_length() <= _MAX_EXPONENT_BITS
    if not fit or exponent % 2 == 0 or is_roca(modulus):
        raise ValueError(f"key `{_shown(kid)}` is a weak RSA key")
    key = RSAKey.import_key({name: material[name] for name in ("kty", "n", "e")})
    return key, frozenset(name for name in ALGORITHMS if name[:2] in {"RS", "PS"})


def by_kid(keys: Iterable[PublicKey]) -> Mapping[str, PublicKey]:
    """Return keys by their ids.

    Raises:
        ValueError: two keys share an id, so that a token could not name one.
    """
    found: dict[str, PublicKey] = {}
    for key in keys:
        if key.kid in found:
            raise ValueError(f"key id `{_shown(key.kid)}` is there twice")
        found[key.kid] = key
    return found


def strict_object(data: bytes, what: str) -> Mapping[str, Any]:
    """Parse one JSON object, refusing duplicate keys at any depth, NaN and infinities.

    Raises:
        UnidentifiedError: it is anything else; ``what`` names it in the message.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise UnidentifiedError(f"{what} is not valid JSON, or repeats a key") from error
    if not isinstance(value, dict):
        raise UnidentifiedError(f"{what} is not a JSON object")
    return value


def numeric_date(claims: Mapping[str, Any], name: str) -> datetime | None:
    """Return a NumericDate claim (RFC 7519 section 2), rounded down to the second; None if absent.

    Raises:
        UnidentifiedError: it is not a number, or no time that a clock can show.
    """
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnidentifiedError(f"the token's `{name}` is not a number of seconds")
    if not 0 <= value <= MAX_NUMERIC_DATE:
        raise UnidentifiedError(f"the token's `{name}` is not a time")
    return datetime.fromtimestamp(int(value), UTC)


def audiences(claims: Mapping[str, Any]) -> Sequence[str]:
    """Return the token's audiences (RFC 7519 section 4.1.3).

    Raises:
        UnidentifiedError: there is none, or it is neither a string nor a list of strings.
    """
    value = claims.get("aud")
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise UnidentifiedError("the token names no audience")
    if not all(isinstance(one, str) and one for one in listed):
        raise UnidentifiedError("the token's audience is not a string or a list of strings")
    return listed


def require_audience(claims: Mapping[str, Any], expected: Collection[str]) -> None:
    """Raise unless one of ``expected`` is among the token's audiences, compared byte by byte.

    Raises:
        UnidentifiedError: the token was made for somebody else.
    """
    if not any(one in expected for one in audiences(claims)):
        raise UnidentifiedError("the token was made for another audience")


def require_lifetime(claims: Mapping[str, Any], now: datetime, leeway_seconds: int) -> datetime:
    """Return when the token expires, having checked ``exp``, ``nbf`` and ``iat``.

    Expiry has no leeway: a short life is how a bearer token is revoked. ``leeway_seconds`` is how
    far ahead of ours the issuer's clock may be.

    Raises:
        UnidentifiedError: ``exp`` is missing or over, or the token is not valid yet.
    """
    expires_at = numeric_date(claims, "exp")
    if expires_at is None:
        raise UnidentifiedError("the token does not expire, and so is not accepted")
    if expires_at <= now:
        raise UnidentifiedError("the token has expired")
    latest = now + timedelta(seconds=leeway_seconds)
    for name in ("nbf", "iat"):
        begins = numeric_date(claims, name)
        if begins is not None and begins > latest:
            raise UnidentifiedError("the token is not valid yet")
    return expires_at


def _number(text: str) -> int:
    """Return a Base64urlUInt (RFC 7518 section 2)."""
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _decode(segment: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error as error:
        raise UnidentifiedError("the token is not valid base64url") from error
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != segment:
        raise UnidentifiedError("the token is not in canonical base64url")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _shown(value: object) -> str:
    """Return a header value as it may stand in a message: short, printable, one line."""
    text = value if isinstance(value, str) else type(value).__name__
    return re.sub(r"[^ -_a-~]", "?", text)[:64]
