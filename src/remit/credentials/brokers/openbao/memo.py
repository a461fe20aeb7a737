"""What a revocation at OpenBao needs to know of a mint: accessors and a lease's name, no secret.

It is written down twice. The lease book keeps it once the mint is answered; before that a note in
the state folder does, so that a run that is killed between two requests of one mint knows the
token under which a secret may have been read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from datetime import datetime
from pathlib import Path

import msgspec

_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,200}\Z")


class Memo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Names at the target. ``outlives``: a secret without a lease lives until ``until``."""

    accessor: str
    wrapping: str | None = None
    lease_id: str | None = None
    outlives: bool = False
    until: datetime | None = None

    def text(self) -> str:
        """Return it as the lease book keeps it."""
        return msgspec.json.encode(self).decode()


def parse_memo(text: str | None) -> Memo | None:
    """Return what :meth:`Memo.text` gave; None where it is not there, or was cut short."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Memo)
    except (msgspec.DecodeError, ValueError):
        return None


class Notes:
    """One small file a mint under way, a line a step. It survives a killed process, not a power cut.

    No fsync: after a power cut the accessor is found by listing, or the lease runs out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, handle: str, memo: Memo) -> None:
        """Write down what is known now, below what was known before.

        Raises:
            OSError: the state folder cannot be written.
        """
        place, line = self._place(handle), memo.text().encode() + b"\n"
        try:
            descriptor = os.open(place, _APPENDING, 0o600)
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(place, _APPENDING, 0o600)
        try:
            written = os.write(descriptor, line)  # at once: no kill cuts it in two
        finally:
            os.close(descriptor)
        if written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def find(self, handle: str) -> Memo | None:
        """Return what was written down last, if anything."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = Path(self._place(handle)).read_text().splitlines()
            return next((memo for line in reversed(lines) if (memo := parse_memo(line))), None)
        return None

    def forget(self, handle: str) -> None:
        """Throw a note away: nothing of it lives any more."""
        with contextlib.suppress(OSError):
            os.unlink(self._place(handle))  # noqa: PTH108 - for each lease

    def _place(self, handle: str) -> str:
        if not _HANDLE.match(handle):
            raise OSError(f"`{handle[:40]}` is no handle")
        return f"{self._folder}{os.sep}{handle}"
