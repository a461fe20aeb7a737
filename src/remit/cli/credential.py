"""`remit credential`: what no agent may ever hold, and the proof that nothing stands."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Any

from cyclopts import App
from rich.console import Group, RenderableType
from rich.text import Text

from remit.cli.client import UnreachableError
from remit.cli.common import DEFAULTS, Common, Exit
from remit.cli.drawing import table
from remit.model.errors import InputError

_MOST_BYTES = 65_536

app = App(
    name="credential",
    help="Seal long-lived keys, and check that no credential lives without a live task.",
)


@app.command
def seal(name: str, *, file: Path | None = None, common: Common = DEFAULTS) -> None:
    """Keep a service's long-lived key encrypted; the gateway alone opens it, for one call.

    The key is read from the file, from the standard input, or asked for without an echo. It is never
    an argument: other processes see those.

    Parameters
    ----------
    name
        What the grant of an upstream calls it: `grant = { key = "NAME" }`.
    file
        Where the key is; a line's end after it is left out.
    """
    client = common.client()
    common.emit(client.post("credentials", body={"name": name, "secret": _secret(name, file)}))


@app.command
def rotate(name: str, *, file: Path | None = None, common: Common = DEFAULTS) -> None:
    """Put a new value in the place of a sealed key's; the old one is kept nowhere.

    Make the new key at its service first, and end the old one there afterwards.

    Parameters
    ----------
    name
        What it was sealed under.
    file
        Where the new value is; without it, it is read or asked for as `seal` does.
    """
    body = {"secret": _secret(name, file)}
    common.emit(common.client().post("credentials", name, "rotate", body=body))


@app.command
def remove(name: str, *, common: Common = DEFAULTS) -> None:
    """Throw a sealed key away. Its service accepts it still: end it there too."""
    common.emit(common.client().post("credentials", name, "remove"))


@app.command(name="list")
def list_sealed(*, common: Common = DEFAULTS) -> None:
    """List sealed keys, how old they are and when they were used; never a value."""
    found = common.client().get("credentials")
    rows = [{**each, "age": _age(each)} for each in found["items"]]
    columns = {
        "key": "name",
        "fingerprint": "fingerprint",
        "sealed": "sealed_at",
        "rotated": "rotated_at",
        "age": "age",
        "last used": "last_used",
    }
    common.rows(found, columns, "no long-lived key is sealed", rows=rows)


def _age(key: dict[str, Any]) -> str:
    days = "1 day" if key["age_days"] == 1 else f"{key['age_days']} days"
    return f"{days}, too old: rotate it" if key["aged"] else days


def _secret(name: str, file: Path | None) -> str:
    """Return a key from a file, a pipe or a person.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        if file is not None:
            with file.open("rb") as source:
                text = source.read(_MOST_BYTES + 1).decode()
        elif sys.stdin.isatty():
            return getpass.getpass(f"the key `{name}` (not shown): ")
        else:
            text = sys.stdin.buffer.read(_MOST_BYTES + 1).decode()
    except OSError as error:
        raise InputError(f"the key cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError("the key is no text: encode it, with base64 for example") from None
    return text.removesuffix("\n").removesuffix("\r")


@app.command(name="verify-none")
def verify_none(*, common: Common = DEFAULTS) -> int:
    """Ask every target what is alive; name what lives without a live task.

    Exits with 0 only where every target answered and nothing was found, else with 1; with 3 where no
    authority runs, for only a running one can ask.
    """
    try:
        report = common.client().get("leases", "standing")
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}: only a running authority asks the targets, so nothing is shown of what stands; "
            "`remit doctor` says what the last one left"
        ) from error
    asked = [
        {
            **each,
            "said": each["trouble"] or ("listed all" if each["complete"] else "asked one by one"),
        }
        for each in report["asked"]
    ]
    parts: list[RenderableType] = []
    if asked:
        columns = {"broker": "broker", "revocation": "revocation", "alive": "alive", "said": "said"}
        parts.append(table(asked, columns))
    if report["items"]:
        columns = {
            "handle": "handle",
            "broker": "broker",
            "lease": "lease",
            "task": "task",
            "why": "why",
            "until": "until",
        }
        parts.append(table(report["items"], columns))
    parts.append(Text(_sentence(report["none_stands"], asked, report["items"])))
    common.emit(report, Group(*parts))
    return Exit.DONE if report["none_stands"] else Exit.REFUSED


def _sentence(none_stands: object, asked: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    if not asked and not found:
        return "no broker is configured: remit has minted nothing that could stand"
    if none_stands:
        return "no credential lives without a live task: every target was asked"
    said = []
    if leases := sum(each["lease"] is not None for each in found):
        said.append(f"{_count(leases, 'lease')} to look at: `remit lease show LEASE`")
    never = {each["broker"] for each in asked if each["revocation"] == "never"}
    if keys := sum(each["lease"] is None and each["broker"] in never for each in found):
        stand = "stands" if keys == 1 else "stand"
        said.append(f"{_count(keys, 'long-lived key')} {stand}: `remit credential list`")
    if strays := len(found) - leases - keys:
        said.append(f"{_count(strays, 'credential')} without a lease: end it at its target by hand")
    if silent := sum(each["trouble"] is not None for each in asked):
        said.append(f"{_count(silent, 'target')} did not answer, so nothing is shown of it")
    return "; ".join(said)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
