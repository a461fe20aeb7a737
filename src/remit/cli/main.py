"""`remit`: the front door. Every command lives in a file of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from cyclopts import App

from remit import __version__
from remit.cli import (
    agent,
    approvals,
    catalog,
    connect,
    doctor,
    evidence,
    gateway,
    init,
    keys,
    lease,
    policy,
    quickstart,
    run,
    task,
    up,
)
from remit.cli.client import RefusedError, UnreachableError
from remit.cli.common import ERR, Exit
from remit.model.errors import ConfigError, InputError, ProofError, RemitError

EPILOGUE = (
    "Exit status: 0 done; 1 refused or failed, and the message says by whom; 2 wrong usage or "
    "configuration; 3 no authority answers; 4 a proof does not verify; 130 interrupted."
)

app = App(
    name="remit",
    help="Keeps AI agents within their remit: identity, authority per task, evidence.",
    help_epilogue=EPILOGUE,
    version=__version__,
    result_action="return_value",
)
app.register_install_completion_command(help="Install shell completion for bash, zsh or fish.")

app.command(up.up)
app.command(init.init)
app.command(doctor.doctor)
app.command(connect.connect)
app.command(run.run)
app.command(agent.app)
app.command(task.app)
app.command(approvals.app)
app.command(approvals.approve)
app.command(approvals.deny)
app.command(policy.app)
app.command(evidence.app)
app.command(catalog.app)
app.command(lease.app)
app.command(keys.app)
app.command(gateway.app)
app.command(quickstart.quickstart)


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
        return _say(error, tokens)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else Exit.REFUSED
    except BrokenPipeError:
        return Exit.DONE
    except Exception as error:
        from cyclopts import CycloptsError  # noqa: PLC0415 - only a usage error needs it

        if not isinstance(error, CycloptsError):
            raise
        ERR.print(f"[bold red]usage:[/] {error}", markup=True)
        ERR.print("`remit --help` lists the commands, `remit COMMAND --help` its options")
        return Exit.CONFIG
    return result if isinstance(result, int) else Exit.DONE


def _say(error: RemitError, tokens: list[str]) -> int:
    message = str(error).replace("[", "\\[")
    if "--json" in tokens:
        sys.stdout.write(json.dumps({"error": {"code": error.code, "message": str(error)}}) + "\n")
    else:
        ERR.print(f"[bold red]error:[/] {message}")
    if isinstance(error, UnreachableError):
        return Exit.UNREACHABLE
    if isinstance(error, ProofError):
        return Exit.PROOF
    if isinstance(error, ConfigError | InputError):
        return Exit.CONFIG
    if isinstance(error, RefusedError):
        return Exit.REFUSED
    return Exit.REFUSED


if __name__ == "__main__":
    main()
