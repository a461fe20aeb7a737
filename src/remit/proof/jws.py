"""Checks a compact JWS (RFC 7515) signed with ES256 (RFC 7518, section 3.4), strictly."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

from remit.model.errors import ProofError

_PART_BYTES = 32


def verify_es256(signed: str, jwks: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the digest of a JWS (SHA-256 of its bytes) and its claims.

    Raises:
        ProofError: it is malformed, names a key that the set does not hold, or is not signed by it.
    """
    parts = signed.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, payload, signature
        raise ProofError("the mandate is not a compact JWS")
    header, claims = _object(parts[0]), _object(parts[1])
    if header.get("alg") != "ES256" or "crit" in header:
        raise ProofError("the mandate is not signed with ES256")
    key = _key(header.get("kid"), jwks)
    signature = _decode(parts[2])
    if len(signature) != 2 * _PART_BYTES:
        raise ProofError("the mandate's signature has the wrong length")
    r, s = (int.from_bytes(half) for half in (signature[:_PART_BYTES], signature[_PART_BYTES:]))
    try:
        key.verify(
            utils.encode_dss_signature(r, s),
            f"{parts[0]}.{parts[1]}".encode(),
            ec.ECDSA(SHA256()),
        )
    except InvalidSignature as error:
        raise ProofError("the mandate's signature does not verify") from error
    return f"sha256:{hashlib.sha256(signed.encode()).hexdigest()}", claims


def _key(kid: object, jwks: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    keys = jwks.get("keys")
    found = [key for key in keys if key.get("kid") == kid] if isinstance(keys, list) else []
    if len(found) != 1 or found[0].get("kty") != "EC" or found[0].get("crv") != "P-256":
        raise ProofError("the key that signed the mandate is not in the pack")
    try:
        x, y = (int.from_bytes(_decode(found[0][part])) for part in ("x", "y"))
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ProofError("the key that signed the mandate is malformed") from error


def _object(part: str) -> Mapping[str, Any]:
    try:
        value = json.loads(_decode(part))
    except ValueError as error:
        raise ProofError("the mandate is not a compact JWS") from error
    if not isinstance(value, dict):
        raise ProofError("the mandate is not a compact JWS")
    return value


def _decode(part: str) -> bytes:
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProofError("a part of the mandate is not base64url") from error
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise ProofError("a part of the mandate is not in its one base64url form")
    return data
