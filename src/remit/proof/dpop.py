"""Proofs of possession (RFC 9449): made here, and the words both sides compare. Pure maths.

A proof is a JWS of type ``dpop+jwt`` that says for one request: its method, its address without
query and fragment, the moment, and the hash of the token beside it. It is signed by a key that only
the sender has, and that a token can be bound to by its RFC 7638 thumbprint (``cnf.jkt``).
Whether a proof is fresh and was not used before is for whoever keeps state to say.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey

from remit.proof.encoding import canonical

PROOF_TYP = "dpop+jwt"
HEADER = "DPoP"
_REQUIRED = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}
_PORTS = {"http": 80, "https": 443}
_IN_A_SEGMENT = "!$&'()*+,;=:@-._~"
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_JTI_BYTES = 16


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return a public key's RFC 7638 SHA-256 thumbprint, base64url.

    Raises:
        ValueError: it is neither an EC nor an RSA key, or lacks a member.
    """
    names = _REQUIRED.get(str(jwk.get("kty")))
    if names is None or not all(isinstance(jwk.get(name), str) for name in names):
        raise ValueError("a thumbprint is taken of an EC or RSA key with all its members")
    return _sha256(canonical({name: jwk[name] for name in names}))


def is_thumbprint(text: object) -> bool:
    """Return whether ``text`` can be a SHA-256 thumbprint."""
    return isinstance(text, str) and _THUMBPRINT.match(text) is not None


def token_hash(token: str) -> str:
    """Return what ``ath`` says of a token: its SHA-256, base64url (RFC 9449 section 4.2)."""
    return _sha256(token.encode("utf-8", "surrogatepass"))


@lru_cache(maxsize=1024)
def address(url: str) -> str:
    """Return the one spelling of an address that ``htu`` is compared in (RFC 9449 section 4.3).

    Scheme and host in lower case, no default port, ``/`` for an empty path, one escaping (RFC 3986
    sections 6.2.2 and 6.2.3).

    Raises:
        ValueError: it is no http or https address, or has user info, a query or a fragment.
    """
    if not url.isascii() or not url.isprintable() or "?" in url or "#" in url or " " in url:
        raise ValueError("an address is ASCII, without query and fragment")
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError("an address is http or https, names a host and no user")
    port = parts.port
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    at = "" if port in {None, _PORTS[parts.scheme]} else f":{port}"
    # An escaped slash is no slash, so what is between the slashes is unescaped piece by piece.
    segments = parts.path.split("/")
    path = "/".join(quote(unquote_to_bytes(each), safe=_IN_A_SEGMENT) for each in segments)
    return f"{parts.scheme}://{host}{at}{path or '/'}"


@dataclass(frozen=True, slots=True)
class ProofKey:
    """A P-256 key that lives in this process's memory and signs a proof for every request.

    ``now`` returns seconds since the epoch; fractions are kept, so that a server that has just
    started can tell a proof made before from one made since.
    """

    _key: ECKey = field(repr=False)
    now: Callable[[], float] = time.time

    @classmethod
    def generate(cls, now: Callable[[], float] = time.time) -> ProofKey:
        """Return a new key."""
        return cls(ECKey.generate_key("P-256"), now)

    @property
    def public(self) -> dict[str, str]:
        """The public key as JWK."""
        members = self._key.as_dict(private=False)
        return {name: str(members[name]) for name in _REQUIRED["EC"]}

    @property
    def thumbprint(self) -> str:
        """What a token that is bound to this key names in ``cnf.jkt``."""
        return thumbprint(self.public)

    def prove(self, method: str, url: str, token: str | None = None) -> str:
        """Return a proof for one request, to be sent as ``DPoP``: fresh, and good once.

        Args:
            method: the HTTP method.
            url: where the request goes; a query and a fragment are left out.
            token: the token in ``Authorization``, where there is one.
        """
        claims: dict[str, Any] = {
            "jti": _base64url(secrets.token_bytes(_JTI_BYTES)),
            "htm": method,
            "htu": url.partition("#")[0].partition("?")[0],
            "iat": round(self.now(), 3),
        }
        if token is not None:
            claims["ath"] = token_hash(token)
        return self.sign(claims)

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return these claims as a proof, whatever they say."""
        header = {"typ": PROOF_TYP, "alg": "ES256", "jwk": self.public}
        return jws.serialize_compact(header, canonical(dict(claims)), self._key)


def _sha256(data: bytes) -> str:
    return _base64url(hashlib.sha256(data).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
