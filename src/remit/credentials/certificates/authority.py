"""Who signs client certificates, what one says, and the list of those that are revoked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from remit.credentials.certificates.files import (
    broker_folder,
    kept_or_made,
    read_private,
    write_whole,
)
from remit.credentials.port import Order, Surroundings
from remit.model.errors import BrokerError, ConfigError

BACKDATED = timedelta(seconds=60)
_YEARS = timedelta(days=3650)

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class AuthorityOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which key signs: one kept elsewhere, one in a file, or one of our own, made on first use."""

    ca_key: str | None = None
    ca_key_file: str | None = None
    ca_cert_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One client certificate."""

    serial: int
    common_name: str
    organization: tuple[str, ...]
    uri: str
    now: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """A key that signs, and the certificate that says so."""

    key: _Key = field(repr=False)
    certificate: x509.Certificate

    @classmethod
    def own(
        cls, key: Path, certificate: Path, name: str, clock: Callable[[], datetime], where: str
    ) -> Authority:
        """Return the authority in the state folder, made on first use.

        Raises:
            ConfigError: its files cannot be read or written.
        """
        setting = f"{where}: the authority's key"
        fresh = private_text(ec.generate_private_key(ec.SECP256R1())).encode()
        private = _load_key(kept_or_made(key, lambda: fresh, setting), setting)
        return cls.signing_itself(private, certificate, name, clock, where)

    @classmethod
    def signing_itself(
        cls, key: _Key, certificate: Path, name: str, clock: Callable[[], datetime], where: str
    ) -> Authority:
        """Return the authority of a key, with a certificate of its own that is made on first use.

        Raises:
            ConfigError: the certificate cannot be read or written, or is of another key.
        """
        if not certificate.exists():
            try:
                made = _self_signed(key, name, clock())
            except BrokerError as error:
                raise ConfigError(f"{where}: {error}") from error
            text = made.public_bytes(Encoding.PEM)
            try:
                write_whole(certificate, text, mode=0o644)
            except OSError as error:
                raise ConfigError(f"{where}: `{certificate}` cannot be written") from error
        return cls.of(key, certificate, where)

    @classmethod
    def read(cls, key: Path, certificate: Path, where: str) -> Authority:
        """Return the authority that two PEM files hold.

        Raises:
            ConfigError: they cannot be read, do not belong together, or are no authority's.
        """
        setting = f"{where}, `ca_key_file`"
        return cls.of(_load_key(read_private(key, setting), setting), certificate, where)

    @classmethod
    def of(cls, key: _Key, certificate: Path, where: str) -> Authority:
        """Return the authority of a key and the certificate in a PEM file.

        Raises:
            ConfigError: it cannot be read, does not belong to the key, or is no authority's.
        """
        try:
            found = x509.load_pem_x509_certificate(certificate.read_bytes())
            basic = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (OSError, ValueError, x509.ExtensionNotFound) as error:
            raise ConfigError(f"{where}: `{certificate}` is no authority's certificate") from error
        if not basic.ca or not _usage(found, "key_cert_sign"):
            raise ConfigError(f"{where}: `{certificate}` may not sign certificates")
        if found.public_key() != key.public_key():
            raise ConfigError(f"{where}: `{certificate}` belongs to another key than the one given")
        return cls(key, found)

    @property
    def text(self) -> str:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def may_sign_lists(self) -> bool:
        """Whether its certificate says that it signs lists of the revoked."""
        return _usage(self.certificate, "crl_sign")


def open_authority(
    said: AuthorityOptions, name: str, where: str, surroundings: Surroundings
) -> Authority:
    """Return the authority that a broker's options name; its own key is made on first use.

    Raises:
        ConfigError: the options do not go together, or a key or a certificate cannot be used.
    """
    folder = broker_folder(surroundings.state)
    if said.ca_key is not None:
        if said.ca_key_file is not None:
            raise ConfigError(f"{where}: `ca_key` or `ca_key_file`, not both")
        key = surroundings.kept_key(f"{where}, `ca_key`", said.ca_key)
        if said.ca_cert_file is not None:
            return Authority.of(key, surroundings.path(said.ca_cert_file), where)
        return Authority.signing_itself(
            key, folder / f"{name}.pem", f"remit {name}", surroundings.clock, where
        )
    if (said.ca_key_file is None) != (said.ca_cert_file is None):
        raise ConfigError(f"{where}: `ca_key_file` and `ca_cert_file` go together")
    if said.ca_key_file is not None and said.ca_cert_file is not None:
        return Authority.read(
            surroundings.path(said.ca_key_file), surroundings.path(said.ca_cert_file), where
        )
    return Authority.own(
        folder / f"{name}.key", folder / f"{name}.pem", f"remit {name}", surroundings.clock, where
    )


def named_uri(order: Order) -> str:
    """Return the one name in a lease's certificate: the agent's, with its task.

    Raises:
        ConfigError: a certificate does not hold it.
    """
    if not order.workload.isascii():
        raise ConfigError("the agent's identity does not fit into a certificate")
    return f"{order.workload}/task/{order.lease.task}"


def _usage(certificate: x509.Certificate, use: str) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True  # RFC 5280 4.2.1.3: without the extension every use is open
    return bool(getattr(usage, use))


def _load_key(data: bytes, setting: str) -> _Key:
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{setting} is no PEM private key without a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ConfigError(f"{setting} has to be an ECDSA or RSA key")
    return key


def _self_signed(key: _Key, name: str, now: datetime) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + _YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def sign_leaf(authority: Authority, key: ec.EllipticCurvePrivateKey, leaf: Leaf) -> str:
    """Return a certificate in PEM that is good for a client, and for nothing else."""
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in leaf.organization]
    names.append(x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name))
    signer = authority.key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(leaf.serial)
        .not_valid_before(max(leaf.now - BACKDATED, authority.certificate.not_valid_before_utc))
        .not_valid_after(leaf.until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(leaf.uri)]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def make_list(
    authority: Authority, serials: Iterable[int], *, number: int, now: datetime, seconds: int
) -> bytes:
    """Return a signed list in PEM (RFC 5280, 5), good for ``seconds``."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - BACKDATED)
        .next_update(now + timedelta(seconds=seconds))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def private_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a private key in PEM (PKCS #8)."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def telling_lines(private: str) -> tuple[str, ...]:
    """Return the lines that no other key has, so that a key taken out of its frame is seen too."""
    least = 16
    return tuple(line for line in private.splitlines()[1:-1] if len(line) >= least)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
