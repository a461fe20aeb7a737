"""What a person typed that no command takes: what is wrong, and what to type next."""

from __future__ import annotations

from cyclopts import CycloptsError, MissingArgumentError, UnusedCliTokensError


def sentence(error: CycloptsError) -> tuple[str, str]:
    """Return what was wrong, and the next step, one line each."""
    command = " ".join(["remit", *(error.command_chain or ())])
    if error.command_chain:
        following = f"`{command} --help` shows how it is used"
    else:
        following = "`remit --help` lists the commands, `remit COMMAND --help` its options"
    return _wrong(error, command), following


def _wrong(error: CycloptsError, command: str) -> str:
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.names[0]
        if error.argument.index is None:
            return f"`{command}` needs `{name}`, with a value"
        return f"`{command}` needs {name.lstrip('-').upper()}"
    if isinstance(error, UnusedCliTokensError):
        extra = " ".join(error.unused_tokens or ())
        return f"`{command}` does not take `{extra}`"
    return " ".join(str(error).split())
