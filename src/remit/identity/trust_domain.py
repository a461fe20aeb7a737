"""The built-in trust domain: the authority that gives workloads their identity.

The rules it enforces:

- Three rings of keys, never used for each other's work: JWT-SVIDs, X509-SVIDs, and what Remit
  signs itself (mandates, task tokens). An SVID therefore never verifies as a mandate.
- Rotation takes into use a key that was published with the last change, retires the one before
  and publishes another. One durable write; a crash leaves the old state or the new one.
- ``spiffe_sequence`` moves with every change of the bundle, also when a retired key leaves it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from remit.identity import bundle as bundles
from remit.identity import jose
from remit.identity import x509 as certificates
from remit.identity.cache import VerifiedCache
from remit.identity.keyring import Key, KeyFile, Ring, Rings, new_key
from remit.identity.svid import X509Svid
from remit.model.errors import ConfigError, InputError, UnidentifiedError
from remit.model.record import Json
from remit.model.subject import SpiffeId

Clock = Callable[[], datetime]
Listener = Callable[[], None]

MAX_JWT_SVID_SECONDS = 3600
MAX_X509_SVID_SECONDS = 86_400
REFRESH_HINT_SECONDS = 60
"""How often others should ask for the bundle: a new key is known before it is used."""
_OWN_CLAIMS = frozenset({"sub", "aud", "exp", "iat", "nbf"})
_MAX_AUDIENCES = 16
_FOREVER = datetime(9999, 12, 31, tzinfo=UTC)

log = structlog.get_logger()


class TrustDomain:
    """Keys in ``folder``; make one with :meth:`open`."""

    def __init__(self, file: KeyFile, rings: Rings, *, clock: Clock) -> None:
        self.name = rings.trust_domain
        self._file = file
        self._clock = clock
        self._listeners: list[Listener] = []
        self._verified: VerifiedCache[Mapping[str, Json]] = VerifiedCache(clock=clock)
        self._take(rings)

    @classmethod
    def open(cls, folder: Path, name: str, *, clock: Clock) -> TrustDomain:
        """Open the keys in ``folder`` (``<state>/keys``), creating them on first start.

        Args:
            folder: the key folder itself, mode 0700; the keys in it are in one file, mode 0600.
            name: the trust domain's name, as ``corp.example``.
            clock: tells the time, aware UTC.

        Raises:
            ConfigError: the name is not valid or not the one the keys were made for, or the folder
                or file is open to others, belongs to somebody else, or is damaged.
        """
        bundles.require_name(name)
        file = KeyFile(folder)
        rings = file.load() or file.create(_first(name, clock()))
        if rings.trust_domain != name:
            raise ConfigError(
                f"the keys in `{folder}` are those of trust domain `{rings.trust_domain}`, "
                f"not of `{name}`"
            )
        return cls(file, rings, clock=clock)

    @property
    def spiffe_id(self) -> SpiffeId:
        """The trust domain's own id, without a path."""
        return SpiffeId(self.name)

    @property
    def sequence(self) -> int:
        """The bundle's sequence number."""
        return self._current().sequence

    @property
    def activated_at(self) -> datetime:
        """When the keys in use were taken into use; what a schedule of rotations looks at."""
        active = self._rings.jwt.active
        return active.activated_at or active.published_at

    def issue_jwt_svid(
        self,
        spiffe_id: SpiffeId,
        audiences: Sequence[str],
        *,
        seconds: int = 300,
        extra: Mapping[str, Json] | None = None,
    ) -> str:
        """Return a JWT-SVID (JWT-SVID sections 2 and 3), signed ES256.

        Args:
            spiffe_id: the workload, in this trust domain.
            audiences: who may accept it; one is best, each can replay it to the others.
            seconds: how long it is valid, at most ``MAX_JWT_SVID_SECONDS``.
            extra: more claims; the registered ones that this method sets cannot be given.

        Raises:
            InputError: the id is not a workload's of this trust domain, there is no audience, or
                the life or a claim is not allowed.
        """
        self._require_ours(spiffe_id)
        if not 0 < seconds <= MAX_JWT_SVID_SECONDS:
            raise InputError(f"a JWT-SVID lives between 1 and {MAX_JWT_SVID_SECONDS} seconds")
        if isinstance(audiences, str) or not 0 < len(audiences) <= _MAX_AUDIENCES:
            raise InputError(f"a JWT-SVID needs between 1 and {_MAX_AUDIENCES} audiences")
        if not all(audiences):
            raise InputError("an audience is not empty")
        if extra and (taken := _OWN_CLAIMS & extra.keys()):
            raise InputError(f"the claim `{min(taken)}` is set by the trust domain")
        self._current()
        now = int(self._clock().timestamp())
        claims = {
            **(extra or {}),
            "sub": str(spiffe_id),
            "aud": list(audiences),
            "iat": now,
            "exp": now + seconds,
        }
        kid, key = self._jwt_key
        return jose.sign(msgspec.json.encode(claims), header={"kid": kid, "typ": "JWT"}, key=key)

    def issue_x509_svid(self, spiffe_id: SpiffeId, *, seconds: int = 3600) -> X509Svid:
        """Return an X509-SVID with a new key.

        Args:
            spiffe_id: the workload, in this trust domain.
            seconds: how long it is valid, at most ``MAX_X509_SVID_SECONDS``.

        Raises:
            InputError: the id is not a workload's of this trust domain, or the life is not allowed.
        """
        self._require_ours(spiffe_id)
        if not 0 < seconds <= MAX_X509_SVID_SECONDS:
            raise InputError(f"an X509-SVID lives between 1 and {MAX_X509_SVID_SECONDS} seconds")
        self._current()
        now = self._clock()
        authority, key = self._authority
        return certificates.issue(
            spiffe_id, authority, key, now=now, expires_at=now + timedelta(seconds=seconds)
        )

    def sign(self, claims: Mapping[str, Json], *, typ: str) -> str:
        """Return a compact JWS of ``claims``, ES256, under a key of Remit's own ring.

        Args:
            claims: the payload.
            typ: what it is, as ``remit-mandate+jwt``; :meth:`verify` wants the same.
        """
        kid, key = self._signing_key
        return jose.sign(msgspec.json.encode(claims), header={"kid": kid, "typ": typ}, key=key)

    def verify(self, token: str, *, typ: str) -> Mapping[str, Json]:
        """Return the claims of what :meth:`sign` signed.

        ``exp`` and ``nbf`` are held to where they are there, without leeway: one clock made both.

        Raises:
            UnidentifiedError: not signed here, of another ``typ``, expired, or not yet valid.
        """
        digest = jose.digest_of(f"{typ} {token}")
        known = self._verified.get(digest, self._verifying)
        if known is not None:
            return known
        parsed = jose.parse(token)
        if parsed.header.get("typ") != typ:
            raise UnidentifiedError(f"the token is not a `{typ}`")
        key = self._verifying.get(parsed.kid or "")
        if key is None:
            raise UnidentifiedError("the token was not signed by this authority")
        jose.verify_signature(parsed, key)
        claims = parsed.claims()
        now = self._clock()
        expires_at = jose.numeric_date(claims, "exp") or _FOREVER
        if expires_at <= now:
            raise UnidentifiedError("the token has expired")
        not_before = jose.numeric_date(claims, "nbf")
        if not_before is not None and not_before > now:
            raise UnidentifiedError("the token is not valid yet")
        self._verified.put(digest, claims, expires_at=expires_at, keys=self._verifying)
        return claims

    def jwks(self) -> Mapping[str, Any]:
        """Return the public keys of mandates and task tokens, retired ones too, for packs."""
        return {"keys": [_jwk(key) for key in self._rings.signing.published]}

    def bundle(self) -> bytes:
        """Return the SPIFFE bundle document, for ``/.well-known/spiffe-bundle``."""
        self._current()
        return self._document

    def parsed_bundle(self) -> bundles.Bundle:
        """Return the bundle as a validator reads it: the same object until it changes."""
        self._current()
        return self._bundle

    def rotate(self, *, compromised: bool = False) -> None:
        """Take the next keys into use, in every ring, and publish others to come.

        A retired SVID key stays published until everything it may have signed has expired; a
        retired signing key stays for good. With ``compromised`` nothing stays: every key is new,
        and whatever was signed before is refused from now on, running tasks included.

        Raises:
            ConfigError: the new state could not be written; the old one stands.
        """
        rings = self._current()
        now = self._clock()
        if compromised:
            fresh = _first(self.name, now)
            rings = msgspec.structs.replace(fresh, sequence=rings.sequence + 1)
        else:
            rings = msgspec.structs.replace(
                rings,
                sequence=rings.sequence + 1,
                jwt=rings.jwt.advance(
                    new_key(now)[1], now=now, until=now + timedelta(seconds=MAX_JWT_SVID_SECONDS)
                ),
                x509=rings.x509.advance(
                    _new_authority(self.name, now),
                    now=now,
                    until=now + timedelta(seconds=MAX_X509_SVID_SECONDS),
                ),
                signing=rings.signing.advance(new_key(now)[1], now=now, until=None),
            )
        self._change(rings)
        log.info("keys rotated", trust_domain=self.name, sequence=rings.sequence)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after every change of the bundle; the answer ends that."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    def _require_ours(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain != self.name or not spiffe_id.path:
            raise InputError(f"`{spiffe_id}` is not a workload of trust domain `{self.name}`")

    def _current(self) -> Rings:
        """Return the rings, without keys whose time is over."""
        now = self._clock()
        if now >= self._next_expiry:
            rings = msgspec.structs.replace(
                self._rings,
                sequence=self._rings.sequence + 1,
                jwt=self._rings.jwt.without_expired(now),
                x509=self._rings.x509.without_expired(now),
            )
            self._change(rings)
        return self._rings

    def _change(self, rings: Rings) -> None:
        self._file.replace(rings)
        self._take(rings)
        for listener in tuple(self._listeners):
            try:
                listener()
            except Exception:
                log.exception("a listener for new keys failed", trust_domain=self.name)

    def _take(self, rings: Rings) -> None:
        try:
            self._jwt_key = (rings.jwt.active.kid, _private(rings.jwt.active))
            self._signing_key = (rings.signing.active.kid, _private(rings.signing.active))
            self._authority = _authority(rings.x509.active)
            self._verifying = jose.by_kid(jose.import_key(_jwk(k)) for k in rings.signing.published)
            self._document = msgspec.json.encode(
                bundles.document(
                    [_svid_jwk(key) for key in rings.jwt.published],
                    [_x509_jwk(key) for key in rings.x509.published],
                    sequence=rings.sequence,
                    refresh_seconds=REFRESH_HINT_SECONDS,
                )
            )
            self._bundle = bundles.parse_bundle(rings.trust_domain, self._document)
        except (ValueError, TypeError, InputError) as error:
            raise ConfigError(
                f"the keys of trust domain `{rings.trust_domain}` are damaged"
            ) from error
        retired = (*rings.jwt.retired, *rings.x509.retired)
        self._next_expiry = min((k.until for k in retired if k.until), default=_FOREVER)
        self._rings = rings


def _first(name: str, now: datetime) -> Rings:
    return Rings(
        trust_domain=name,
        sequence=1,
        jwt=Ring(active=new_key(now)[1], next=new_key(now)[1]),
        x509=Ring(active=_new_authority(name, now), next=_new_authority(name, now)),
        signing=Ring(active=new_key(now)[1], next=new_key(now)[1]),
    )


def _new_authority(name: str, now: datetime) -> Key:
    private, key = new_key(now)
    certificate = certificates.self_signed_authority(name, private, key.kid, now)
    return msgspec.structs.replace(key, certificate=certificate)


def _private(key: Key) -> ECKey:
    if key.private is None:
        raise ValueError("a key in use has no private half")
    return ECKey.import_key(key.private)


def _authority(key: Key) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if key.private is None or key.certificate is None:
        raise ValueError("an authority in use is incomplete")
    private = serialization.load_pem_private_key(key.private.encode(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError("an authority in use has a key of another kind")
    return x509.load_der_x509_certificate(key.certificate), private


def _jwk(key: Key) -> dict[str, Any]:
    """Return a public key as JWK, for ``use: sig``."""
    public = ECKey.import_key(key.public).as_dict(private=False)
    point = {name: public[name] for name in ("kty", "crv", "x", "y")}
    return {**point, "kid": key.kid, "alg": "ES256", "use": "sig"}


def _svid_jwk(key: Key) -> dict[str, Any]:
    return {**_jwk(key), "use": "jwt-svid"}


def _x509_jwk(key: Key) -> dict[str, Any]:
    if key.certificate is None:
        raise ValueError("an authority has no certificate")
    jwk = {name: value for name, value in _jwk(key).items() if name in {"kty", "crv", "x", "y"}}
    return {**jwk, "use": "x509-svid", "x5c": [base64.b64encode(key.certificate).decode()]}
