"""`remit init`: write a commented configuration."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.text import Text

from remit.app.config import DEFAULT_FILE
from remit.app.template import TEMPLATE
from remit.cli.common import DEFAULTS, Common
from remit.model.errors import ConfigError


def init(path: Path = Path(DEFAULT_FILE), *, common: Common = DEFAULTS) -> None:
    """Write a commented configuration; an existing file is left alone.

    Parameters
    ----------
    path
        The file to write.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise ConfigError(f"`{path}` is there already; nothing was changed") from None
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be written: {error.strerror}") from error
    where = "" if path == Path(DEFAULT_FILE) else f" --config {shlex.quote(str(path))}"
    steps = (
        f"wrote {path}; next, in that file: name an [upstream.NAME] and a folder of templates;",
        f"then check it with `remit doctor{where}`, and start with `remit up{where}`",
    )
    common.emit({"wrote": str(path)}, Text("\n".join(steps)))
