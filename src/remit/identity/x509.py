"""X509-SVIDs and the certificates that sign them (X509-SVID sections 2 to 5).

A leaf has exactly one URI SAN, an id with a path, ``cA`` false, ``digitalSignature`` and neither
``keyCertSign`` nor ``cRLSign``; a signing certificate has ``cA`` true, ``keyCertSign``, and an id
without a path where it has one.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from remit.identity.svid import Verified, X509Svid
from remit.model.errors import InputError, UnidentifiedError
from remit.model.subject import SpiffeId

_E = TypeVar("_E", bound=x509.ExtensionType)
AUTHORITY_DAYS = 3650
"""How long an authority's certificate is valid; rotation retires it long before."""
MAX_CHAIN = 5
_MAX_CERTIFICATES_BYTES = 64 * 1024
_BACKDATE = timedelta(seconds=10)
_MIN_RSA_BITS = 2048
_NAME = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Remit")])


def _usage(*, leaf: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=leaf,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, spiffe_id: SpiffeId, *, leaf: bool
) -> x509.CertificateBuilder:
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(
            x509.BasicConstraints(ca=not leaf, path_length=None if leaf else 0), critical=True
        )
        .add_extension(_usage(leaf=leaf), critical=True)
        .add_extension(san, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def self_signed_authority(
    trust_domain: str, key: ec.EllipticCurvePrivateKey, kid: str, now: datetime
) -> bytes:
    """Return the DER of a self-signed authority for a trust domain.

    ``kid`` is in its name, so that chains of rotated authorities are not mixed up.
    """
    name = x509.Name([*_NAME, x509.NameAttribute(NameOID.COMMON_NAME, f"{kid}")])
    return (
        _builder(name, key.public_key(), SpiffeId(trust_domain), leaf=False)
        .issuer_name(name)
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def issue(
    spiffe_id: SpiffeId,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    expires_at: datetime,
) -> X509Svid:
    """Return a new X509-SVID with a new P-256 key, valid until ``expires_at``."""
    key = ec.generate_private_key(ec.SECP256R1())
    expires_at = min(expires_at, authority.not_valid_after_utc).replace(microsecond=0)
    certificate = (
        _builder(_NAME, key.public_key(), spiffe_id, leaf=True)
        .issuer_name(authority.subject)
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(expires_at)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    return X509Svid(
        spiffe_id=spiffe_id,
        certificates=(certificate.public_bytes(serialization.Encoding.DER),),
        private_key=key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        issued_at=now,
        expires_at=expires_at,
    )


def load_chain(data: bytes) -> tuple[x509.Certificate, ...]:
    """Load a chain, leaf first: PEM, or DER certificates one after the other.

    Raises:
        UnidentifiedError: it is none, too long, or has something else in it.
    """
    if not data or len(data) > _MAX_CERTIFICATES_BYTES:
        raise UnidentifiedError("the certificate chain is empty or too long")
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            chain = x509.load_pem_x509_certificates(data)
        else:
            chain = [x509.load_der_x509_certificate(one) for one in _split_der(data)]
    except ValueError as error:
        raise UnidentifiedError("the certificate chain is malformed") from error
    if len(chain) > MAX_CHAIN:
        raise UnidentifiedError(f"the certificate chain is longer than {MAX_CHAIN}")
    return tuple(chain)


def _split_der(data: bytes) -> list[bytes]:
    parts = []
    while data:
        if len(data) < 4 or data[0] != 0x30:  # noqa: PLR2004 - an ASN.1 SEQUENCE with its length
            raise ValueError("not a certificate")
        octets = data[1] & 0x7F if data[1] & 0x80 else 0
        length = int.from_bytes(data[2 : 2 + octets]) if octets else data[1]
        size = 2 + octets + length
        if size > len(data):
            raise ValueError("a certificate is cut short")
        parts.append(data[:size])
        data = data[size:]
    return parts


def leaf_id(certificate: x509.Certificate) -> SpiffeId:
    """Return a leaf's SPIFFE ID, having checked everything that X509-SVID asks of a leaf.

    Raises:
        UnidentifiedError: one of the rules of sections 2 to 4 is broken.
    """
    if _is_authority(certificate):
        raise UnidentifiedError("the certificate is an authority, not a workload's")
    usage = _key_usage(certificate)
    if usage is None or not usage.digital_signature:
        raise UnidentifiedError("the certificate is not for digital signatures")
    if usage.key_cert_sign or usage.crl_sign:
        raise UnidentifiedError("the certificate may sign others, as a workload's may not")
    _require_extended_usage(certificate)
    spiffe_id = _uri_id(certificate)
    if spiffe_id is None or not spiffe_id.path:
        raise UnidentifiedError("the certificate's SPIFFE ID names no workload")
    _require_strong_key(certificate)
    return spiffe_id


def check_signing(certificate: x509.Certificate, trust_domain: str) -> None:
    """Check everything that X509-SVID asks of a signing certificate.

    Raises:
        UnidentifiedError: it may not sign, or has the id of a workload or another trust domain.
    """
    if not _is_authority(certificate):
        raise UnidentifiedError("a certificate in the chain is not an authority")
    usage = _key_usage(certificate)
    if usage is None or not usage.key_cert_sign:
        raise UnidentifiedError("a certificate in the chain may not sign others")
    try:
        spiffe_id = _uri_id(certificate)
    except UnidentifiedError:
        raise UnidentifiedError("an authority in the chain has no valid SPIFFE ID") from None
    if spiffe_id is not None and (spiffe_id.path or spiffe_id.trust_domain != trust_domain):
        raise UnidentifiedError("an authority in the chain has the id of somebody else")
    _require_strong_key(certificate)


def verify_chain(
    chain: tuple[x509.Certificate, ...],
    authorities: tuple[x509.Certificate, ...],
    spiffe_id: SpiffeId,
    now: datetime,
) -> Verified:
    """Verify a chain up to one of the trust domain's authorities (RFC 5280 section 6, in short).

    ``spiffe_id`` is the leaf's, from :func:`leaf_id`. Name constraints are not evaluated: a chain
    that carries some, or another critical extension that is not known here, is refused.

    Raises:
        UnidentifiedError: a signature, validity, path length or signing certificate does not hold.
    """
    for certificate in chain:
        _require_known_critical(certificate)
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise UnidentifiedError("a certificate in the chain has expired, or is not yet valid")
    for below, (child, issuer) in enumerate(pairwise(chain)):
        check_signing(issuer, spiffe_id.trust_domain)
        if not _signed_by(child, issuer) or not _length_allows(issuer, below):
            raise UnidentifiedError("the certificate chain does not hold together")
    for anchor in authorities:
        if _signed_by(chain[-1], anchor) and _length_allows(anchor, len(chain) - 1):
            check_signing(anchor, spiffe_id.trust_domain)
            if not anchor.not_valid_before_utc <= now < anchor.not_valid_after_utc:
                continue
            return Verified(
                spiffe_id=spiffe_id,
                method="x509-svid",
                credential=hashlib.sha256(
                    chain[0].public_bytes(serialization.Encoding.DER)
                ).hexdigest(),
                expires_at=min(c.not_valid_after_utc for c in (*chain, anchor)),
            )
    raise UnidentifiedError(
        f"no authority of trust domain `{spiffe_id.trust_domain}` vouches for the certificate"
    )


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    algorithm = certificate.signature_hash_algorithm
    return isinstance(algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512)


def _length_allows(issuer: x509.Certificate, below: int) -> bool:
    length = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    return length is None or below <= length


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    usage = _extension(certificate, x509.KeyUsage)
    if (
        usage is not None
        and not certificate.extensions.get_extension_for_class(x509.KeyUsage).critical
    ):
        raise UnidentifiedError("a certificate's key usage is not marked critical")
    return usage


def _require_extended_usage(certificate: x509.Certificate) -> None:
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    if usages is None:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(usages):
        raise UnidentifiedError("the certificate is not for both ends of a TLS connection")


def _uri_id(certificate: x509.Certificate) -> SpiffeId | None:
    names = _extension(certificate, x509.SubjectAlternativeName)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        return None
    if len(uris) > 1:
        raise UnidentifiedError("the certificate has more than one URI name")
    try:
        return SpiffeId.parse(uris[0])
    except InputError as error:
        raise UnidentifiedError("the certificate's URI name is not a SPIFFE ID") from error


def _require_strong_key(certificate: x509.Certificate) -> None:
    try:
        key = certificate.public_key()
    except Exception as error:  # cryptography raises several kinds for keys it does not know
        raise UnidentifiedError("a certificate has a key that remit does not accept") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1
    ):
        return
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return
    raise UnidentifiedError("a certificate has a key that remit does not accept")


_KNOWN = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
)


def _require_known_critical(certificate: x509.Certificate) -> None:
    try:
        extensions = list(certificate.extensions)
    except (ValueError, x509.DuplicateExtension) as error:
        raise UnidentifiedError("a certificate has malformed or repeated extensions") from error
    for extension in extensions:
        known = isinstance(extension.value, _KNOWN)
        if isinstance(extension.value, x509.NameConstraints) or (extension.critical and not known):
            raise UnidentifiedError("a certificate has a critical extension that is not supported")


def _extension(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension) as error:
        raise UnidentifiedError("a certificate has malformed or repeated extensions") from error
