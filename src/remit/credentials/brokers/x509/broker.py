"""Signs short client certificates for services that ask for mutual TLS.

One name in each: the agent's, with its task. Where the service reads a revocation list of ours, a
certificate ends with its lease; elsewhere it runs out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from remit.credentials.brokers.x509.grant import Grant, check_grant
from remit.credentials.brokers.x509.probe import ProbeOptions, X509Probe
from remit.credentials.certificates.authority import (
    AuthorityOptions,
    Leaf,
    make_list,
    named_uri,
    open_authority,
    private_text,
    sign_leaf,
    telling_lines,
)
from remit.credentials.certificates.book import Book
from remit.credentials.certificates.files import broker_folder
from remit.credentials.certificates.issuing import CertificateBroker, House, Signed
from remit.credentials.certificates.publishing import ListOptions, Publisher
from remit.credentials.port import Order, Surroundings
from remit.credentials.tables import read_table
from remit.model.errors import ConfigError, NotMintedError
from remit.model.lease import Lease

_DAY = 86400


class CrlOptions(ListOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the list goes, and how long a service may rely on one."""

    valid_days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 7


class Options(AuthorityOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[broker.NAME]`` of kind ``x509``."""

    crl: CrlOptions | None = None
    probe: ProbeOptions | None = None
    max_seconds: Annotated[int, msgspec.Meta(ge=1)] | None = None
    key_folder: str | None = None


class X509Broker(CertificateBroker):
    """A certificate authority for clients."""

    serial_bytes = 16

    def __init__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> None:
        """Read the authority's key and certificate, made on first use.

        Raises:
            ConfigError: an option is unknown or makes no sense, or the key cannot be used.
        """
        where = f"`[broker.{name}]`"
        said = read_table(options, Options, where)
        folder = broker_folder(surroundings.state)
        self._authority = open_authority(said, name, where, surroundings)
        self._book = Book(folder / f"{name}.book", surroundings.clock)
        self._clock = surroundings.clock
        self._crl = said.crl
        self._number = 0
        if said.crl is None and said.probe is not None:
            raise ConfigError(f"{where}: `probe` wants `crl`: nothing else revokes")
        probe = None
        if said.probe is not None:
            probe = X509Probe(said.probe, surroundings, self._authority, where)
        super().__init__(
            House(
                book=self._book,
                clock=surroundings.clock,
                installation=surroundings.installation,
                publisher=self._publisher(said.crl, surroundings, where),
                probe=probe,
                max_seconds=said.max_seconds,
                key_folder=None if said.key_folder is None else surroundings.path(said.key_folder),
            )
        )

    def _publisher(
        self, crl: CrlOptions | None, surroundings: Surroundings, where: str
    ) -> Publisher | None:
        if crl is None:
            return None
        if crl.file is None and not crl.command:
            raise ConfigError(f"{where}: `crl` wants `file`, `command` or both")
        if not self._authority.may_sign_lists:
            raise ConfigError(f"{where}: `ca_cert_file` may not sign lists (key usage cRLSign)")
        file = None if crl.file is None else surroundings.path(crl.file)
        return Publisher(crl, file, self._list, stale_after=crl.valid_days * _DAY / 2)

    def _list(self) -> bytes:
        self._number = max(self._number + 1, time.time_ns() // 1_000_000)
        days = self._crl.valid_days if self._crl is not None else 1
        return make_list(
            self._authority,
            self._book.revoked(),
            number=self._number,
            now=self._clock(),
            seconds=days * _DAY,
        )

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a grant whose references may not be filled in yet.

        Raises:
            ConfigError: a key is unknown, or a value makes no sense.
        """
        check_grant(read_table(grant, Grant, "grant of `x509`"))

    def _vet(self, order: Order) -> None:
        self.check(order.grant)
        named_uri(order)

    def _until(self, lease: Lease, now: int) -> int:
        end = int(self._authority.certificate.not_valid_after_utc.timestamp())
        if end <= now:
            raise NotMintedError("the authority's own certificate has expired")
        return min(super()._until(lease, now), end)

    def _sign(self, order: Order, serial: int, now: int, until: int) -> Signed:
        grant = read_table(order.grant, Grant, "grant of `x509`")
        key = ec.generate_private_key(ec.SECP256R1())
        uri = named_uri(order)
        leaf = Leaf(
            serial=serial,
            common_name=grant.common_name or order.lease.handle,
            organization=grant.organization,
            uri=uri,
            now=datetime.fromtimestamp(now, UTC),
            until=datetime.fromtimestamp(until, UTC),
        )
        certificate = sign_leaf(self._authority, key, leaf)
        private = private_text(key)
        return Signed(
            values={
                "private_key": private,
                "certificate": certificate,
                "ca_certificate": self._authority.text,
                "bundle": private + certificate,
                "uri": uri,
            },
            secrets=(private, *telling_lines(private)),
            memo=f"serial {serial}",
            files={
                "private_key_file": ("client.key", private),
                "certificate_file": ("client.crt", certificate),
            },
        )
