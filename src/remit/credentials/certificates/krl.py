"""OpenSSH's key revocation list, written as PROTOCOL.krl says: serials under one authority."""

from __future__ import annotations

import struct
from collections.abc import Iterable

_MAGIC = b"SSHKRL\n\0"
_FORMAT = 1
_CERTIFICATES = 1
_SERIAL_LIST = 0x20


def write_krl(ca: bytes, serials: Iterable[int], *, version: int, made: int, comment: str) -> bytes:
    """Return a list that revokes these serials of certificates that ``ca`` signed.

    Args:
        ca: the authority's public key, as a blob of the wire format.
        serials: each in 1..2^64-1; zero is no serial that can be listed.
        version: of the list, rising.
        made: when, in seconds since 1970.
        comment: shown by ``ssh-keygen``.
    """
    head = _MAGIC + struct.pack(">IQQQ", _FORMAT, version, made, 0)
    head += _string(b"") + _string(comment.encode())
    listed = b"".join(struct.pack(">Q", serial) for serial in sorted(set(serials)))
    if not listed:
        return head
    section = _string(ca) + _string(b"") + bytes([_SERIAL_LIST]) + _string(listed)
    return head + bytes([_CERTIFICATES]) + _string(section)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
