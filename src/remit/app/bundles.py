"""Every bundle that ever decided, by digest: an evidence pack shows the one that did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from remit.model.errors import EvidenceError, NotFoundError
from remit.policy.bundle import Bundle


class BundleArchive:
    """One file a bundle under ``<state>/bundles``, written before the bundle becomes active."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, bundle: Bundle) -> None:
        """Write a bundle down, unless it is there.

        Raises:
            EvidenceError: it cannot be written; it must not become active.
        """
        path = self._path(bundle.digest)
        if path.exists():
            return
        draft = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(dict(sorted(bundle.files.items()))))
            draft.chmod(0o600)
            draft.rename(path)
        except OSError as error:
            raise EvidenceError(f"a policy bundle cannot be kept: {error.strerror}") from error

    def files(self, digest: str) -> Mapping[str, bytes]:
        """Return a bundle's files by path.

        Raises:
            NotFoundError: it was never kept here.
        """
        try:
            data = self._path(digest).read_bytes()
        except OSError:
            raise NotFoundError(f"the bundle `{digest}` is not in this archive") from None
        return msgspec.json.decode(data, type=dict[str, bytes])

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest.removeprefix('sha256:')}.json"
