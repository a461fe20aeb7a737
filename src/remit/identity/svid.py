"""SVIDs: the documents by which a workload shows its SPIFFE ID."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from remit.model.subject import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """An X509-SVID with its private key, for the workload's hands only.

    ``certificates`` is the chain in DER, leaf first, without the trust domain's own authority.
    ``private_key`` is PKCS #8 DER.
    """

    spiffe_id: SpiffeId
    certificates: tuple[bytes, ...]
    private_key: bytes = field(repr=False)
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """An identity document that held: whose it is, who vouched, and until when.

    ``credential`` is the SHA-256 of the token or leaf certificate, in hex.
    """

    spiffe_id: SpiffeId
    method: str
    credential: str
    expires_at: datetime
