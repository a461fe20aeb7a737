"""Where the quickstart's upstreams, agents and templates lie."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import remit
from remit.model.errors import ConfigError


def examples_folder() -> Path:
    """Return the folder of the examples: beside the sources, or where a wheel puts them.

    Raises:
        ConfigError: this installation has none.
    """
    sources = Path(remit.__file__).resolve().parent.parent.parent
    for folder in (sources / "examples", Path(sysconfig.get_path("data"), "share/remit/examples")):
        if (folder / "quickstart").is_dir():
            return folder
    raise ConfigError("this installation of remit carries no examples")
