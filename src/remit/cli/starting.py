"""Whether a command can be started at all, and with which exit status `remit run` says that not."""

from __future__ import annotations

import os
import shutil

from remit.cli.common import Exit
from remit.model.errors import ConfigError


class CommandError(ConfigError):
    """The command that was to be run cannot be; ``exit_status`` is what a shell would give."""

    def __init__(self, message: str, exit_status: Exit) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def program_of(name: str) -> str:
    """Return the file that ``name`` stands for, looked up in this process's ``PATH``.

    Raises:
        CommandError: there is none (127), or it cannot be executed (126), as shells have it.
    """
    program = shutil.which(name)
    if program is not None:
        return program
    if shutil.which(name, mode=os.F_OK) is not None or os.path.isdir(name):  # noqa: PTH112 - a name
        raise CommandError(
            f"`{name}` cannot be executed: make it executable (chmod +x), or run its interpreter",
            Exit.NOT_EXECUTED,
        )
    raise CommandError(
        f"`{name}` is not a program that can be found and executed: say its path, or mend PATH",
        Exit.NOT_FOUND,
    )
