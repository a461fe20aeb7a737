"""The book of what a certificate authority of ours has signed and taken back.

A line is durable before a certificate is signed, and before a list that names it is published, so
that a list made after any crash holds every serial it has to hold. Lines go when the certificate
has been expired for an hour, which is what the clock of a target may lag behind.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from remit.credentials.certificates.files import write_whole
from remit.model.errors import BrokerError, ConfigError, NotMintedError

LAG_SECONDS = 3600
_SPARE_LINES = 1000


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    event: Literal["minted", "revoked"]
    handle: str
    serial: str
    expires: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate, or one that may have been: ``expires`` in seconds since 1970.

    ``place``: how many were revoked before it, so that a list with it on holds those as well.
    """

    serial: int
    expires: int
    minted: bool
    revoked: bool
    place: int


class Book:
    """An append-only file of lines, and what they amount to. Its methods block on the disk."""

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        """Read the book, or begin one.

        Raises:
            ConfigError: the file is damaged, or cannot be read or written.
        """
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._lines = self._rewritten = 0
        self._size = self._places = 0
        try:
            self._read()
            self._rewrite()
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(
                f"the book of certificates `{path}` cannot be read: restore it from a backup"
            ) from error

    def _read(self) -> None:
        if not self._path.exists():
            return
        # A last line without its end was being written when the machine died: nothing was signed.
        whole = self._path.read_bytes().rpartition(b"\n")[0]
        for text in whole.split(b"\n") if whole else ():
            self._take(msgspec.json.decode(text, type=_Line))

    def _take(self, line: _Line) -> None:
        known = self._entries.get(line.handle)
        place = known.place if known is not None else 0
        if line.event == "revoked" and not (known is not None and known.revoked):
            self._places += 1
            place = self._places
        self._entries[line.handle] = Entry(
            place=place,
            serial=int(line.serial, 16),
            expires=max(line.expires, known.expires if known else 0),
            minted=line.event == "minted" or (known is not None and known.minted),
            revoked=line.event == "revoked" or (known is not None and known.revoked),
        )
        self._lines += 1

    def _rewrite(self) -> None:
        oldest = int(self._clock().timestamp()) - LAG_SECONDS
        self._entries = {h: e for h, e in self._entries.items() if e.expires >= oldest}
        lines = [
            _Line("minted", handle, f"{entry.serial:x}", entry.expires)
            for handle, entry in self._entries.items()
            if entry.minted
        ]
        # In the order of their places: what is newer has to stay newer.
        lines += [
            _Line("revoked", handle, f"{entry.serial:x}", entry.expires)
            for handle, entry in sorted(self._entries.items(), key=lambda each: each[1].place)
            if entry.revoked
        ]
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        write_whole(self._path, data, mode=0o600)
        self._lines = self._rewritten = len(lines)
        self._size = len(data)

    def _append(self, line: _Line) -> None:
        data = msgspec.json.encode(line) + b"\n"
        try:
            if self._lines > 2 * self._rewritten + _SPARE_LINES:
                self._rewrite()
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, self._size)  # what a full disk left of the last attempt
                written = os.pwrite(descriptor, data, self._size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BrokerError("the book of certificates cannot be written") from error
        if written != len(data):
            raise BrokerError("the book of certificates cannot be written: the disk is full")
        self._size += written
        self._take(line)

    def mint(self, handle: str, serial: int, expires: int) -> None:
        """Write down a certificate about to be signed.

        Raises:
            NotMintedError: it was revoked before.
            BrokerError: the disk failed; nothing may be signed.
        """
        with self._lock:
            known = self._entries.get(handle)
            if known is not None and known.revoked:
                raise NotMintedError("the lease was revoked before its certificate was signed")
            self._append(_Line("minted", handle, f"{serial:x}", expires))

    def revoke(self, handle: str, serial: int, expires: int) -> int:
        """Write down that a serial is revoked, signed or not; return its place. Again is no error.

        Raises:
            BrokerError: the disk failed.
        """
        with self._lock:
            known = self._entries.get(handle)
            if known is None or not known.revoked or known.expires < expires:
                self._append(_Line("revoked", handle, f"{serial:x}", expires))
            return self._entries[handle].place

    def get(self, handle: str) -> Entry | None:
        """Return what is known of a handle."""
        with self._lock:
            return self._entries.get(handle)

    def revoked(self) -> tuple[int, ...]:
        """Return the serials that a list has to hold now, in order."""
        oldest = int(self._clock().timestamp()) - LAG_SECONDS
        with self._lock:
            found = {e.serial for e in self._entries.values() if e.revoked and e.expires >= oldest}
        return tuple(sorted(found))

    def alive(self, *, unrevoked: bool = True) -> frozenset[str]:
        """Return the handles of certificates that were signed and have not expired."""
        now = int(self._clock().timestamp())
        with self._lock:
            return frozenset(
                handle
                for handle, entry in self._entries.items()
                if entry.minted and entry.expires > now and not (unrevoked and entry.revoked)
            )
