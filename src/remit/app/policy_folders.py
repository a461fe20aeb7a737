"""Which folders the policy in force is read from."""

from __future__ import annotations

from pathlib import Path

from remit.app.config import Loaded
from remit.policy.loading import default_folder


def bundle_folders(loaded: Loaded) -> tuple[Path, Path | None]:
    """Return the bundle's folder, and the one of further templates."""
    section = loaded.config.policy
    folder = loaded.path(section.bundle) if section.bundle else default_folder()
    return folder, loaded.path(section.templates) if section.templates else None
