"""`remit quickstart`: two agents at work, allowed and refused, and the evidence of it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from remit.app import logs
from remit.app.compose import House
from remit.app.config import load
from remit.app.quickstart import AGENTS, QuickAgent, prepare
from remit.app.serve import serving
from remit.cli.client import ControlClient
from remit.cli.common import DEFAULTS, Common, Exit
from remit.cli.connect import executable
from remit.cli.drawing import OUT, put
from remit.cli.evidence import words
from remit.model.errors import ProofError
from remit.proof.verify import verify_pack

AGENT_SECONDS = 60.0
_EFFECTS = {"permit": "green", "deny": "red", "approval_required": "yellow"}


@dataclass(slots=True)
class Shown:
    """What the quickstart saw, as its last JSON line says it."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    refusals: set[str] = field(default_factory=set)
    packs: list[Path] = field(default_factory=list)
    verified: bool = False
    tamper_detected: bool = False
    failures: list[str] = field(default_factory=list)

    def ok(self) -> bool:
        """Whether everything came out as it should."""
        effects = {call["effect"] for call in self.calls}
        return (
            {"permit", "deny"} <= effects
            and self.refusals >= REFUSALS
            and self.verified
            and self.tamper_detected
            and not self.failures
        )


REFUSALS = frozenset(
    {"outside_mandate", "argument_out_of_bounds", "wrong_environment", "budget_spent"}
)
"""The policies that have to have refused something by the end."""


def quickstart(*, once: bool = False, port: int = 0, common: Common = DEFAULTS) -> int:
    """Start Remit on loopback with two agents and two upstreams, and show what it does.

    Parameters
    ----------
    once
        End when everything was shown, instead of serving on.
    port
        Where to listen; a free port, where 0.
    """
    logs.set_up("warning", json=True if common.json else None)
    folder = Path(tempfile.mkdtemp(prefix="remit-"))
    return asyncio.run(_main(folder, port, once=once, common=common))


async def _main(folder: Path, port: int, *, once: bool, common: Common) -> int:
    quiet = common.json
    with OUT.status("preparing two upstreams and a repository") if not quiet else _Nothing():
        config = await asyncio.to_thread(prepare, folder, port)
    async with serving(load(config)) as house:
        shown = Shown()
        _say(quiet, f"[bold]remit is up[/] at {house.loaded.url}, everything in {folder}\n")
        for agent in AGENTS:
            await _work(agent, house, folder, shown, quiet=quiet)
        await _prove(house, shown, quiet=quiet)
        _end(house, config, shown, once=once, quiet=quiet)
        if not once:
            await _until_interrupted()
    return Exit.DONE if shown.ok() else Exit.REFUSED


async def _work(
    agent: QuickAgent, house: House, folder: Path, shown: Shown, *, quiet: bool
) -> None:
    client = ControlClient(house.loaded.control_socket)
    await asyncio.to_thread(client.post, "agents", body=agent.registration())
    opened = await asyncio.to_thread(client.post, "tasks", body=agent.opening(folder))
    _say(quiet, Text(f"{agent.name}: {opened['purpose']}", style="bold"))
    _say(quiet, f"[dim]{opened['workload']} for {opened['on_behalf_of']}, task {opened['id']}[/]")
    table = Table(box=None, pad_edge=False, show_header=False)
    output = await _run(agent, opened["task_token"], folder, shown)
    for line in output.splitlines():
        call = json.loads(line)
        shown.calls.append(call)
        style = _EFFECTS.get(call["effect"], "yellow")
        table.add_row(
            Text("  " + ("allowed" if call["effect"] == "permit" else "refused"), style=style),
            call["tool"],
            Text(_short(call["reason"] or ""), style="dim"),
        )
    _say(quiet, table)
    closed = await asyncio.to_thread(client.post, "tasks", opened["id"], "complete")
    spent = f"task {closed['state']}, {closed['spent']['calls']} calls spent"
    bound = f"every request proved to come from the holder of the key {closed['key']}"
    _say(quiet, f"[dim]{spent}; {bound}[/]\n")
    chain = await asyncio.to_thread(client.get, "evidence", "tasks", opened["id"])
    proven = [r["body"]["proof"] for r in chain["records"] if r["kind"] == "call.identified"]
    if not proven or set(proven) != {"dpop"}:
        shown.failures.append(f"{agent.name} made calls without proving that it holds a key")
    for record in chain["records"]:
        if record["kind"] == "call.decided" and record["body"]["effect"] == "deny":
            shown.refusals |= {policy["id"] for policy in record["body"]["policies"]}
    pack = folder / f"{agent.name}.pack"
    data = await asyncio.to_thread(client.raw, "evidence", "tasks", opened["id"], "pack")
    pack.write_bytes(data)
    shown.packs.append(pack)


async def _run(agent: QuickAgent, token: str, folder: Path, shown: Shown) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "remit.cli.main", "run", "--config", str(folder / "remit.toml")),
        *("--agent", agent.name, "--", sys.executable, str(agent.script)),
        env={**os.environ, **agent.environment(folder), "REMIT_TASK": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(AGENT_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        output, errors = await process.communicate()
        shown.failures.append(f"{agent.name} took longer than {AGENT_SECONDS:g} seconds")
    if process.returncode:
        said = errors.decode(errors="replace").strip().splitlines()
        shown.failures.append(f"{agent.name} ended with {process.returncode}: {said[-1:]}")
    return output.decode()


async def _prove(house: House, shown: Shown, *, quiet: bool) -> None:
    vkey = house.authority.evidence.signer.vkey
    for pack in shown.packs:
        data = pack.read_bytes()
        try:
            verdict = await asyncio.to_thread(verify_pack, data, [vkey])
        except ProofError as error:
            shown.failures.append(f"{pack.name} does not verify: {error}")
            return
        if pack == shown.packs[-1]:
            _say(quiet, f"[bold]evidence[/] {pack}")
            _say(quiet, words(verdict))
    shown.verified = True
    flipped = bytearray(data)
    flipped[len(flipped) // 2] ^= 1
    try:
        await asyncio.to_thread(verify_pack, bytes(flipped), [vkey])
    except ProofError as error:
        shown.tamper_detected = True
        _say(quiet, Text(f"\nwith one bit flipped, it is refused: {error}\n", style="bold"))


def _end(house: House, config: Path, shown: Shown, *, once: bool, quiet: bool) -> None:
    publisher = house.authority.evidence.publisher
    if quiet:
        line = {
            "ok": shown.ok(),
            "calls": shown.calls,
            "refusals": sorted(shown.refusals),
            "pack": str(shown.packs[-1]),
            "packs": [str(pack) for pack in shown.packs],
            "verified": shown.verified,
            "tamper_detected": shown.tamper_detected,
            "failures": shown.failures,
            "log": {
                "origin": f"{house.trust_domain.name}/log",
                "size": publisher.size,
                "vkey": house.authority.evidence.signer.vkey,
            },
        }
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    for failure in shown.failures:
        put(Text(f"went wrong: {failure}", style="bold red"))
    missing = sorted(REFUSALS - shown.refusals)
    if missing:
        put(Text(f"never refused by: {', '.join(missing)}", style="bold red"))
    put("[bold]look further[/]" if not once else "[bold]done[/]")
    remit = "remit" if shutil.which("remit") else shlex.join(executable())
    put(f"  {remit} evidence verify {shown.packs[-1]}")
    if not once:
        put(f"  {remit} task list --config {config}")
        put(f"  {remit} evidence show --config {config} TASK")
        put("serving on; stop with Ctrl-C")


async def _until_interrupted() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def _short(reason: str) -> str:
    """Return why, without what was refused (it stands beside) and what would allow it."""
    return reason.partition(" is not allowed. ")[2].partition(" To make it allowed")[0] or reason


def _say(quiet: bool, what: Any) -> None:  # noqa: FBT001 - read as a word at every call
    if not quiet:
        put(what)


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
