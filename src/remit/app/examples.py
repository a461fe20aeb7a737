"""Where the quickstart's upstreams, agents and templates lie."""

from __future__ import annotations

from pathlib import Path

import remit
from remit.model.errors import ConfigError


def examples_folder() -> Path:
    """Return the folder of the examples: in the wheel, or beside the sources.

    Raises:
        ConfigError: this installation has none.
    """
    package = Path(remit.__file__).resolve().parent
    for folder in (package / "_examples", package.parent.parent / "examples"):
        if (folder / "quickstart").is_dir():
            return folder
    raise ConfigError("this installation of remit carries no examples")
