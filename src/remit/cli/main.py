"""`remit`: the front door. Every command lives in a file of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter
from rich.text import Text

from remit import __version__
from remit.cli.client import UnreachableError
from remit.cli.common import MEANINGS, Exit
from remit.cli.drawing import ERR, help_console, printable
from remit.cli.starting import CommandError
from remit.model.errors import ConfigError, InputError, ProofError, RemitError, UnavailableError

EPILOGUE = (
    "Exit status: "
    + "; ".join(f"{status:d} {meaning.replace('`', '')}" for status, meaning in MEANINGS.items())
    + "; remit run ends with the status of its command."
)

app = App(
    name="remit",
    help="Keeps AI agents within their remit: identity, authority per task, evidence.",
    help_epilogue=EPILOGUE,
    version=__version__,
    result_action="return_value",
    default_parameter=Parameter(negative=""),
    console=help_console(),
    help_formatter="default" if sys.stdout.isatty() else "plain",
)
app.register_install_completion_command(
    help="Install shell completion for bash, zsh or fish, and load it from the shell's start file."
)

# By name, so that a command imports only what it needs: `remit task list` starts no web server.
COMMANDS = {
    "up": ("up:up", "Start the authority and its gateway, until it is interrupted."),
    "init": ("init:init", "Write a commented configuration; an existing file is left alone."),
    "doctor": ("doctor:doctor", "Check machine, configuration and authority; say what to do."),
    "connect": ("connect:connect", "Print ready configuration for the common MCP clients."),
    "run": ("run:run", "Run a command as a registered agent."),
    "agent": ("agent:app", "Register agents, and say who answers for them."),
    "task": ("task:app", "Open, look at and close tasks."),
    "approvals": ("approvals:app", "See what waits for a person's yes."),
    "approve": ("approvals:approve", "Say yes to one exact call, once."),
    "deny": ("approvals:deny", "Say no to one exact call."),
    "policy": ("policy:app", "Check, test and explain policy."),
    "evidence": ("evidence:app", "Show, export, verify and audit evidence."),
    "catalog": ("catalog:app", "See what upstreams offer, and accept what changed."),
    "lease": ("lease:app", "See which credentials may be alive, and take one back."),
    "credential": ("credential:app", "Seal long-lived keys; check that nothing stands."),
    "keys": ("keys:app", "Rotate the trust domain's keys; make keys in a token or a KMS."),
    "gateway": ("gateway:app", "Reach the gateway from clients that start a process."),
    "quickstart": ("quickstart:quickstart", "Show two agents at work, allowed and refused."),
}
for _name, (_where, _sentence) in COMMANDS.items():
    app.command(f"remit.cli.{_where}", name=_name, help=_sentence)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(status_of(tokens))


def status_of(tokens: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        result = app(tokens, exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except RemitError as error:
        return _say(error, json_asked_for(tokens))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else Exit.REFUSED
    except BrokenPipeError:
        return Exit.DONE
    except CycloptsError as error:
        return _misused(error, json_asked_for(tokens))
    return result if isinstance(result, int) else Exit.DONE


def json_asked_for(tokens: Sequence[str]) -> bool:
    """Return whether errors are to be JSON: what stands after `--` is another command's."""
    own = list(tokens)
    if "--" in own:
        own = own[: own.index("--")]
    return "--json" in own or "--json=true" in [each.lower() for each in own]


def _misused(error: CycloptsError, as_json: bool) -> int:  # noqa: FBT001 - one call, named there
    from remit.cli.misuse import sentence  # noqa: PLC0415 - only a usage error needs it

    said, following = sentence(error)
    if as_json:
        _write("usage", f"{said}; {following}")
    else:
        ERR.print(Text.assemble(("usage: ", "bold red"), printable(said)))
        ERR.print(Text(printable(following)))
    return Exit.CONFIG


def _write(code: str, message: str) -> None:
    sys.stdout.write(json.dumps({"error": {"code": code, "message": message}}) + "\n")


def _say(error: RemitError, as_json: bool) -> int:  # noqa: FBT001 - one call, named there
    if as_json:
        _write(error.code, str(error))
    else:
        ERR.print(Text.assemble(("error: ", "bold red"), printable(str(error))))
    if isinstance(error, CommandError):
        return error.exit_status
    if isinstance(error, UnreachableError | UnavailableError):
        return Exit.UNREACHABLE
    if isinstance(error, ProofError):
        return Exit.PROOF
    if isinstance(error, ConfigError | InputError):
        return Exit.CONFIG
    return Exit.REFUSED


if __name__ == "__main__":
    main()
