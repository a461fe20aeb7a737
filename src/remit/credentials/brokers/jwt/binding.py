"""What a token is bound to, so that whoever captures it alone has nothing.

A key of the lease's own, in memory alone: it signs a proof for each request (RFC 9449), or it is that
of a client certificate, which the connection is made with (RFC 8705 section 3).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from remit.credentials.certificates.authority import (
    Authority,
    Leaf,
    named_uri,
    private_text,
    sign_leaf,
    telling_lines,
)
from remit.credentials.port import Order
from remit.model.errors import ConfigError, NotMintedError
from remit.proof.dpop import ProofKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Bond:
    """What a token says of its key (``cnf``, RFC 7800), and what the gateway shows of it."""

    cnf: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    memo: str | None = None
    prove: Callable[[str, str, str | None], str] | None = field(default=None, repr=False)


def proving(now: Callable[[], datetime]) -> Bond:
    """Return a bond to a key that signs a proof for each request."""
    key = ProofKey.generate(lambda: now().timestamp())
    return Bond(cnf={"jkt": key.thumbprint}, prove=key.prove)


def certified(authority: Authority, order: Order, now: datetime) -> Bond:
    """Return a bond to a client certificate that ends with the lease. It may block.

    Raises:
        NotMintedError: the authority's own certificate ends sooner, or the agent's name does not fit.
        BrokerError: the authority's key, kept elsewhere, cannot be used.
    """
    until = datetime.fromtimestamp(int(order.lease.expires_at.timestamp()), UTC)
    if until > authority.certificate.not_valid_after_utc:
        raise NotMintedError("jwt: the authority's own certificate ends before the lease: renew it")
    try:
        uri = named_uri(order)
    except ConfigError as error:
        raise NotMintedError(f"jwt: {error}") from error
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = Leaf(
        serial=x509.random_serial_number(),
        common_name=order.lease.handle,
        organization=(),
        uri=uri,
        now=now.replace(microsecond=0),
        until=until,
    )
    certificate, private = sign_leaf(authority, key, leaf), private_text(key)
    digest = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256())
    thumbprint = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return Bond(
        cnf={"x5t#S256": thumbprint},
        values={
            "private_key": private,
            "certificate": certificate,
            "bundle": private + certificate,
        },
        secrets=(private, *telling_lines(private)),
        memo=f"certificate {thumbprint}",
    )
