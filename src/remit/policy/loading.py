"""A bundle's folder, read with suspicion, and checked before it may decide anything.

A bundle is ``*.cedar``, ``templates/*.toml`` and, if at all, the schema as the code has it; cases
for its test lie in ``cases/*.yaml`` and are no part of it. Nothing is read from outside the folder,
whatever links say, and nothing without bound.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from remit.model.errors import ConfigError
from remit.policy.bundle import TEMPLATES, Bundle
from remit.policy.schema import SCHEMA_FILE

MAX_FILES = 400
"""So that the manifest fits into one record."""
MAX_FILE_BYTES = 1024 * 1024
MAX_BUNDLE_BYTES = 16 * 1024 * 1024
MAX_ENTRIES = 4096
CASES = "cases/"


def default_folder() -> Path:
    """Return the folder of the bundle that Remit carries."""
    return Path(str(resources.files("remit.policy") / "bundle" / "default"))


def default_bundle() -> Bundle:
    """Return the bundle that Remit carries, without templates."""
    return Bundle.of(read_folder(default_folder()))


def read_folder(folder: Path, templates: Path | None = None) -> Mapping[str, bytes]:
    """Return a bundle's files by path; ``templates`` is another folder of ``*.toml`` for it.

    Raises:
        ConfigError: the folder is missing, leads outside itself, or is larger than a bundle may be.
    """
    files = {
        path: _read(folder, path)
        for path in _paths(folder)
        if _belongs(path) and not path.startswith(CASES)
    }
    if templates is not None:
        found = [path for path in _paths(templates) if path.endswith(".toml") and "/" not in path]
        for path in found:
            if f"{TEMPLATES}{path}" in files:
                raise ConfigError(f"`{TEMPLATES}{path}` is in the bundle and in `{templates}`")
            files[f"{TEMPLATES}{path}"] = _read(templates, path)
    if not any(path.endswith(".cedar") for path in files):
        raise ConfigError(f"`{folder}` holds no policy: there is no *.cedar in it")
    if len(files) > MAX_FILES:
        raise ConfigError(f"`{folder}` holds more than {MAX_FILES} files")
    if sum(map(len, files.values())) > MAX_BUNDLE_BYTES:
        raise ConfigError(f"`{folder}` holds more than {MAX_BUNDLE_BYTES} bytes")
    return files


def read_cases(folder: Path) -> Mapping[str, bytes]:
    """Return the case files of a bundle's folder by path.

    Raises:
        ConfigError: as for :func:`read_folder`.
    """
    return {
        path: _read(folder, path)
        for path in _paths(folder)
        if path.startswith(CASES) and path.endswith((".yaml", ".yml"))
    }


def strays(folder: Path) -> list[str]:
    """Return the files of a folder that are no part of a bundle nor its cases."""
    return [p for p in _paths(folder) if not _belongs(p) and not p.startswith(CASES)]


def _belongs(path: str) -> bool:
    above, _, name = path.rpartition("/")
    if name.endswith(".toml"):
        return above + "/" == TEMPLATES
    return above == "" and (name.endswith(".cedar") or name == SCHEMA_FILE)


def _paths(folder: Path) -> list[str]:
    """Return every file below a folder, two levels deep, hidden ones left out."""
    found: list[str] = []
    try:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            below = sorted(entry.iterdir()) if entry.is_dir() else [entry]
            found += [str(p.relative_to(folder)) for p in below if not p.name.startswith(".")]
            if len(found) > MAX_ENTRIES:
                raise ConfigError(f"`{folder}` holds more than {MAX_ENTRIES} entries")
    except OSError as error:
        raise ConfigError(
            f"`{folder}` is not a folder that can be read: {error.strerror}"
        ) from error
    return [path.replace(os.sep, "/") for path in found if not (folder / path).is_dir()]


def _read(folder: Path, path: str) -> bytes:
    """Read one regular file that really lies below the folder, whole."""
    try:
        root, real = folder.resolve(strict=True), (folder / path).resolve(strict=True)
        if not real.is_relative_to(root):
            raise ConfigError(f"`{path}` leads outside the bundle's folder")
        # Opened without waiting and without following a last link swapped in since.
        handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ConfigError(f"`{path}` is not a regular file")
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"`{path}` holds more than {MAX_FILE_BYTES} bytes")
    return data
