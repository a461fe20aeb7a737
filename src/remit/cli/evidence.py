"""`remit evidence`: draw a task's chain, export it, verify it offline, audit them all."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Group
from rich.text import Text

from remit.cli.chain import draw
from remit.cli.client import ControlClient, RefusedError
from remit.cli.common import DEFAULTS, Common, Exit
from remit.cli.drawing import printable, put
from remit.model.errors import ConfigError
from remit.proof.pack import MAX_PACK_BYTES
from remit.proof.verify import Verdict, verify_pack

app = App(name="evidence", help="Show, export, verify and audit evidence.")


@app.command
def show(task: str, *, common: Common = DEFAULTS) -> None:
    """Draw the chain of a task: every step of every call, with times.

    A lease that serves the whole task is one branch: taken, used by which calls, and ended how. So is
    what was delegated of the task, and of that, each with a chain of its own.
    """
    chain = with_delegated(common.client(), task)
    common.emit(chain, draw(printable(chain)))


def with_delegated(client: ControlClient, task: str) -> dict[str, Any]:
    """Return a task's chain, with those of the tasks below it under ``delegated``, by their ids."""
    chain: dict[str, Any] = client.get("evidence", "tasks", task)
    below: dict[str, Any] = {}
    for each in _below(chain):
        # A disk that failed between the two records leaves no chain: nothing was delegated.
        with contextlib.suppress(RefusedError):
            below[each] = with_delegated(client, each)
    return {**chain, "delegated": below}


def _below(chain: dict[str, Any]) -> list[str]:
    """Return the tasks that a chain says were delegated from it."""
    return [r["body"]["child"] for r in chain["records"] if r["kind"] == "task.delegated"]


@app.command
def export(
    task: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    common: Common = DEFAULTS,
) -> None:
    """Write a task's evidence pack: one file that anyone can verify, offline.

    It holds the mandates of the tasks that it was delegated from. What was delegated of it has packs
    of its own, which are named.

    Parameters
    ----------
    output
        The file to write.
    """
    client = common.client()
    data = client.raw("evidence", "tasks", task, "pack")
    still = " --open-task" if client.get("tasks", task)["state"] == "open" else ""
    try:
        output.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"`{output}` cannot be written: {error.strerror}") from error
    below = _below(client.get("evidence", "tasks", task))
    lines = [
        f"wrote {output} ({len(data)} bytes); check it with: remit evidence verify {output}{still}",
        *(
            f"delegated of it: remit evidence export {printable(each)} -o {each}.json"
            for each in below
        ),
    ]
    common.emit(
        {"pack": str(output), "bytes": len(data), "delegated": below}, Text("\n".join(lines))
    )


@app.command
def verify(
    pack: Path,
    *,
    vkey: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative="")] = (),
    witness: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative="")] = (),
    open_task: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Verify an evidence pack with no server and no secret, and say what that proves.

    Parameters
    ----------
    pack
        The file to check.
    vkey
        The log's public key, as you got it from its operator (`remit evidence key` prints it there);
        repeat for more. Without it, the pack's own key is used, which proves that the pack is whole,
        not whose it is.
    witness
        A witness's public key: the pack is refused unless that witness cosigned the log; repeat for
        more.
    open_task
        Take the pack of a task that has not ended: later records may be missing from it. The pack
        of a task that ended is refused without its seal in any case.
    """
    try:
        with pack.open("rb") as file:
            data = file.read(MAX_PACK_BYTES + 1)  # it may be a pipe without an end
    except OSError as error:
        raise ConfigError(f"`{pack}` cannot be read: {error.strerror}") from error
    verdict = verify_pack(data, vkey, witnesses=witness, open_task=open_task)
    common.emit(plain_verdict(verdict), words(verdict))
    return Exit.DONE


@app.command
def key(*, vkey_only: bool = False, common: Common = DEFAULTS) -> None:
    """Print the log's name and public key: hand it to those who verify, for `--vkey`.

    Parameters
    ----------
    vkey_only
        Print the key and nothing else, as `--vkey` takes it.
    """
    log = common.client().get("status")["log"]
    if vkey_only and not common.json:
        sys.stdout.write(log["vkey"] + "\n")
        return
    common.emit({"origin": log["origin"], "vkey": log["vkey"]})


@app.command
def audit(*, limit: int = 100, after: str | None = None, common: Common = DEFAULTS) -> int:
    """Find every task whose chain cannot answer the five questions of an auditor.

    A task that is open has not ended yet; it is listed apart, and is no fault.
    """
    found = common.client().get("evidence", "audit", limit=limit, after=after)
    running = found["open"]
    common.rows(
        found,
        {"task": "task", "question": "question", "finding": "finding"},
        f"tasks looked at: {found['tasks']}; all that ended answer all five questions",
    )
    if running and not common.json:
        put(Text(f"open still, so without an end: {printable(', '.join(running))}"))
    return Exit.REFUSED if found["items"] else Exit.DONE


def plain_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain values."""
    return {
        "verified": True,
        "sealed": verdict.sealed,
        "witnesses": list(verdict.witnesses),
        "steps": [{"name": step.name, "sentence": step.sentence} for step in verdict.steps],
        "proves": list(verdict.proves),
        "does_not_prove": list(verdict.does_not_prove),
    }


def words(verdict: Verdict) -> Group:
    """Return a verdict for people."""
    return Group(
        *_list("checked", [f"{s.name}: {s.sentence}" for s in verdict.steps], "green", "+"),
        *_list("this proves", verdict.proves, "bold", "-"),
        *_list("this does not prove", verdict.does_not_prove, "yellow", "-"),
    )


def _list(title: str, lines: Sequence[str], style: str, bullet: str) -> list[Text]:
    # Whoever made the pack wrote some of this: none of it may add a line or drive the terminal.
    said = (Text(f"  {bullet} {printable(line)}") for line in lines)
    return [Text(title, style=style), *said]
