"""Whether an SVID holds: JWT-SVIDs (JWT-SVID section 4) and X509-SVIDs (X509-SVID section 5).

The rules it enforces:

- The bundle is chosen by the trust domain in the id and only that one is asked; a trust domain
  that is neither ours nor federated is refused. System trust stores play no part.
- A JWT-SVID has ``alg``, ``kid`` and ``typ`` in its header and nothing else (section 2), ``sub``,
  ``aud`` and ``exp``, and its audience is checked on every use, cached or not.
- Leeway: ``LEEWAY_SECONDS`` for what is not valid yet, because clocks differ; none for expiry,
  because a short life is how a bearer token is revoked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from remit.identity import jose
from remit.identity import x509 as certificates
from remit.identity.bundle import Bundle
from remit.identity.cache import VerifiedCache
from remit.identity.svid import Verified
from remit.model.errors import InputError, UnidentifiedError
from remit.model.subject import SpiffeId

LEEWAY_SECONDS = 10
"""How far ahead of ours an issuer's clock may be."""
_HEADERS = frozenset({"alg", "kid", "typ"})
_TYPES = (None, "JWT", "JOSE")
_MAX_REVOKED = 100_000

Clock = Callable[[], datetime]


class BundleSource(Protocol):
    """Where the bundle of a trust domain comes from: our own authority, and federation."""

    def bundle_of(self, trust_domain: str) -> Bundle | None:
        """Return the trust domain's bundle as it is now, the same object until it changes."""
        ...


@dataclass(frozen=True, slots=True)
class _Held:
    verified: Verified
    audiences: frozenset[str]
    claims: Mapping[str, Any] = field(repr=False)


class SvidValidator:
    """Checks SVIDs against the bundles that ``bundles`` knows."""

    def __init__(
        self, bundles: BundleSource, *, clock: Clock, leeway_seconds: int = LEEWAY_SECONDS
    ) -> None:
        self._bundles = bundles
        self._clock = clock
        self._leeway = leeway_seconds
        self._tokens: VerifiedCache[_Held] = VerifiedCache(clock=clock)
        self._chains: VerifiedCache[Verified] = VerifiedCache(clock=clock)
        self._revoked: dict[str, datetime] = {}

    def jwt(self, token: str, audience: str) -> Verified:
        """Return whose JWT-SVID this is.

        Args:
            token: the compact JWS.
            audience: who asks; it has to be among the token's audiences.

        Raises:
            UnidentifiedError: the token does not hold.
        """
        held = self._held(token)
        self._require_not_revoked(held.verified.credential)
        if audience not in held.audiences:
            raise UnidentifiedError("the JWT-SVID was made for another audience")
        return held.verified

    def remembers(self, token: str) -> bool:
        """Return whether this token held before; :meth:`jwt` still has to be asked."""
        return self._tokens.peek(jose.digest_of(token)) is not None

    async def claims(self, token: str, audience: str) -> Mapping[str, Any]:
        """Return the claims of a JWT-SVID that holds, as the Workload API asks for them.

        Raises:
            UnidentifiedError: the token does not hold.
        """
        self.jwt(token, audience)
        return self._held(token).claims

    def certificate(self, data: bytes) -> Verified:
        """Return whose X509-SVID this is. That its key was shown is the TLS edge's word.

        Args:
            data: the chain, leaf first, in PEM or concatenated DER.

        Raises:
            UnidentifiedError: the chain does not hold.
        """
        digest = hashlib.sha256(data).hexdigest()
        known = self._chains.peek(digest)
        if known is not None:
            known = self._chains.get(digest, self._bundle(known.spiffe_id.trust_domain))
        if known is None:
            chain = certificates.load_chain(data)
            spiffe_id = certificates.leaf_id(chain[0])
            bundle = self._bundle(spiffe_id.trust_domain)
            known = certificates.verify_chain(chain, bundle.authorities, spiffe_id, self._clock())
            self._chains.put(digest, known, expires_at=known.expires_at, keys=bundle)
        self._require_not_revoked(known.credential)
        return known

    def revoke(self, credential: str, until: datetime) -> None:
        """Refuse one token or certificate from now on.

        Args:
            credential: its SHA-256 in hex, as ``Verified.credential`` and evidence have it.
            until: when it expires by itself; afterwards it is forgotten.

        Raises:
            InputError: so many are revoked already that no more can be remembered.
        """
        now = self._clock()
        if len(self._revoked) >= _MAX_REVOKED:
            self._revoked = {one: at for one, at in self._revoked.items() if at > now}
        if len(self._revoked) >= _MAX_REVOKED:
            raise InputError(f"{_MAX_REVOKED} credentials are revoked already: rotate the keys")
        self._revoked[credential] = until

    def _held(self, token: str) -> _Held:
        digest = jose.digest_of(token)
        known = self._tokens.peek(digest)
        if known is not None:
            bundle = self._bundle(known.verified.spiffe_id.trust_domain)
            known = self._tokens.get(digest, bundle)
            if known is not None:
                return known
        parsed = jose.parse(token)
        claims = parsed.claims()
        spiffe_id = _subject(claims)
        bundle = self._bundle(spiffe_id.trust_domain)
        _check_header(parsed)
        key = bundle.jwt_keys.get(parsed.kid or "")
        if key is None:
            raise UnidentifiedError(
                f"trust domain `{spiffe_id.trust_domain}` has no key that signed this JWT-SVID"
            )
        jose.verify_signature(parsed, key)
        held = _Held(
            Verified(
                spiffe_id=spiffe_id,
                method="jwt-svid",
                credential=parsed.digest,
                expires_at=jose.require_lifetime(claims, self._clock(), self._leeway),
            ),
            frozenset(jose.audiences(claims)),
            claims,
        )
        self._tokens.put(digest, held, expires_at=held.verified.expires_at, keys=bundle)
        return held

    def _bundle(self, trust_domain: str) -> Bundle:
        bundle = self._bundles.bundle_of(trust_domain)
        if bundle is None:
            raise UnidentifiedError(f"trust domain `{trust_domain}` is not one that remit trusts")
        return bundle

    def _require_not_revoked(self, credential: str) -> None:
        until = self._revoked.get(credential)
        if until is not None and until > self._clock():
            raise UnidentifiedError("the credential was revoked")


def _subject(claims: Mapping[str, Any]) -> SpiffeId:
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise UnidentifiedError("the JWT-SVID has no subject")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except InputError as error:
        raise UnidentifiedError("the JWT-SVID's subject is not a SPIFFE ID") from error
    if not spiffe_id.path:
        raise UnidentifiedError("the JWT-SVID's subject is a trust domain, not a workload")
    return spiffe_id


def _check_header(parsed: jose.Unverified) -> None:
    if parsed.header.keys() - _HEADERS:
        raise UnidentifiedError("the JWT-SVID has headers that SPIFFE does not allow")
    if parsed.header.get("typ") not in _TYPES:
        raise UnidentifiedError("the token's type is not that of a JWT-SVID")
    if not parsed.kid:
        raise UnidentifiedError("the JWT-SVID names no key")
