"""Every bundle that ever decided, by digest: an evidence pack shows the one that did.

What is handed out is what was kept: each file is checked against the digest that names it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from remit.model.errors import EvidenceError, NotFoundError, ProofError
from remit.model.record import Json
from remit.policy.bundle import Bundle
from remit.proof.encoding import canonical
from remit.proof.encoding import digest as digest_of


class BundleArchive:
    """One file a bundle under ``<state>/bundles``, durable before the bundle becomes active."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, bundle: Bundle) -> None:
        """Write a bundle down, unless it is there, whole.

        Raises:
            EvidenceError: it cannot be written; it must not become active.
        """
        path = self._path(bundle.digest)
        data = msgspec.json.encode(dict(sorted(bundle.files.items())))
        draft = path.with_suffix(".new")
        try:
            if path.exists() and path.read_bytes() == data:
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The name must not outlive a crash that the bytes did not.
            with draft.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
            _sync(self._folder)
        except OSError as error:
            raise EvidenceError(f"a policy bundle cannot be kept: {error.strerror}") from error

    def files(self, digest: str) -> Mapping[str, bytes]:
        """Return a bundle's files by path.

        Raises:
            NotFoundError: it was never kept here.
            ProofError: what is kept is not what had that digest.
        """
        try:
            data = self._path(digest).read_bytes()
        except OSError:
            raise NotFoundError(f"the bundle `{digest}` is not in this archive") from None
        try:
            files = msgspec.json.decode(data, type=dict[str, bytes])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProofError(f"the kept bundle `{digest}` was altered: it is unreadable") from error
        manifest: dict[str, Json] = {name: digest_of(content) for name, content in files.items()}
        # As `Bundle.digest`, without parsing the policies.
        if digest_of(canonical(manifest)) != digest:
            raise ProofError(f"the kept bundle `{digest}` was altered")
        return files

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest.removeprefix('sha256:')}.json"


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
