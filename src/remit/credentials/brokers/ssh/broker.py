"""Signs OpenSSH user certificates: one key pair a lease, for minutes, for what was granted alone.

Nothing is allowed that a grant does not name: no terminal, no forwarding, no agent. Where ``sshd``
reads a revocation list of ours, a certificate ends with its lease; elsewhere it runs out.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from remit.credentials.brokers.ssh.certificates import (
    About,
    Grant,
    SigningKey,
    check_grant,
    private_text,
    sign_certificate,
    telling_lines,
)
from remit.credentials.brokers.ssh.probe import ProbeOptions, SshProbe
from remit.credentials.certificates.book import Book
from remit.credentials.certificates.files import (
    broker_folder,
    kept_or_made,
    read_private,
    write_whole,
)
from remit.credentials.certificates.issuing import CertificateBroker, House, Signed
from remit.credentials.certificates.krl import write_krl
from remit.credentials.certificates.publishing import ListOptions, Publisher
from remit.credentials.port import Order, Surroundings
from remit.credentials.tables import read_table
from remit.model.errors import ConfigError


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[broker.NAME]`` of kind ``ssh``."""

    ca_key: str | None = None
    ca_key_file: str | None = None
    krl: ListOptions | None = None
    probe: ProbeOptions | None = None
    terminate: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    max_seconds: Annotated[int, msgspec.Meta(ge=1)] | None = None
    key_folder: str | None = None


class SshBroker(CertificateBroker):
    """An OpenSSH user certificate authority."""

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        """Read the authority's key, made on first use, and put its public key beside it.

        Raises:
            ConfigError: an option is unknown or makes no sense, or the key cannot be used.
        """
        where = f"`[broker.{name}]`"
        said = read_table(options, Options, where)
        folder = broker_folder(surroundings.state)
        self._key = _authority_key(said, folder / f"{name}.key", where, surroundings)
        public = self._key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        self._blob = base64.b64decode(public.split()[1])
        _publish_key(folder / f"{name}.pub", public + b" " + name.encode() + b"\n", where)
        self._book = Book(folder / f"{name}.book", surroundings.clock)
        self._clock = surroundings.clock
        self._comment = name
        self._version = 0
        probe = None
        if said.krl is None and (said.probe is not None or said.terminate):
            raise ConfigError(f"{where}: `probe` and `terminate` want `krl`: nothing else revokes")
        if said.probe is not None:
            probe = SshProbe(said.probe, surroundings, self._key, where)
        super().__init__(
            House(
                book=self._book,
                clock=surroundings.clock,
                installation=surroundings.installation,
                publisher=self._publisher(said.krl, surroundings, where),
                probe=probe,
                max_seconds=said.max_seconds,
                key_folder=None if said.key_folder is None else surroundings.path(said.key_folder),
                terminate=said.terminate,
            )
        )

    def _publisher(
        self, krl: ListOptions | None, surroundings: Surroundings, where: str
    ) -> Publisher | None:
        if krl is None:
            return None
        if krl.file is None and not krl.command:
            raise ConfigError(f"{where}: `krl` wants `file`, `command` or both")
        file = None if krl.file is None else surroundings.path(krl.file)
        return Publisher(krl, file, self._list)

    def _list(self) -> bytes:
        self._version = max(self._version + 1, time.time_ns() // 1_000_000)
        made = int(self._clock().timestamp())
        return write_krl(
            self._blob,
            self._book.revoked(),
            version=self._version,
            made=made,
            comment=self._comment,
        )

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a grant whose references may not be filled in yet.

        Raises:
            ConfigError: a key is unknown, or a value makes no sense.
        """
        check_grant(read_table(grant, Grant, "grant of `ssh`"))

    def _vet(self, order: Order) -> None:
        self.check(order.grant)

    def _sign(self, order: Order, serial: int, now: int, until: int) -> Signed:
        grant = read_table(order.grant, Grant, "grant of `ssh`")
        key = Ed25519PrivateKey.generate()
        key_id = f"{order.lease.handle} {order.lease.task}"
        about = About(serial=serial, key_id=key_id, now=now, until=until)
        certificate = sign_certificate(self._key, key, grant, about)
        private = private_text(key)
        return Signed(
            values={
                "private_key": private,
                "certificate": certificate,
                "principal": grant.principals[0],
                "key_id": key_id,
            },
            secrets=(private, *telling_lines(private)),
            memo=f"serial {serial}",
            files={
                "private_key_file": ("id", private),
                "certificate_file": ("id-cert.pub", certificate + "\n"),
            },
        )


def _authority_key(said: Options, own: Path, where: str, surroundings: Surroundings) -> SigningKey:
    if said.ca_key is not None:
        if said.ca_key_file is not None:
            raise ConfigError(f"{where}: `ca_key` or `ca_key_file`, not both")
        return surroundings.kept_key(f"{where}, `ca_key`", said.ca_key)
    if said.ca_key_file is not None:
        setting = f"{where}, `ca_key_file`"
        data = read_private(surroundings.path(said.ca_key_file), setting)
    else:
        setting = f"{where}: the authority's key"
        data = kept_or_made(
            own, lambda: private_text(Ed25519PrivateKey.generate()).encode(), setting
        )
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        key = load(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{setting} is no private key that can be read (OpenSSH or PEM, without passphrase)"
        ) from error
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey):
        raise ConfigError(f"{setting} has to be an Ed25519, ECDSA or RSA key")
    return key


def _publish_key(path: Path, text: bytes, where: str) -> None:
    try:
        write_whole(path, text, mode=0o644)
    except OSError as error:
        raise ConfigError(f"{where}: `{path}` cannot be written") from error
