"""Checks and tests a bundle without a running authority, for the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remit.app.config import Loaded
from remit.app.policy_folders import bundle_folders
from remit.policy.cases import run
from remit.policy.check import Checked, check
from remit.policy.loading import read_cases
from remit.tasks.templates import parse_templates


def check_bundle(folder: Path | None, loaded: Loaded) -> dict[str, Any]:
    """Return what is wrong with a bundle; ``ok`` is whether it may become active.

    Raises:
        ConfigError: the folder cannot be read as a bundle at all.
    """
    checked = _checked(folder, loaded)
    bundle = checked.bundle
    return {
        "ok": bundle is not None,
        "findings": [str(finding) for finding in checked.findings],
        "policies": len(bundle.sources) if bundle else 0,
        "templates": len(bundle.templates) if bundle else 0,
        "digest": bundle.digest if bundle else None,
    }


def run_cases(folder: Path | None, loaded: Loaded) -> dict[str, Any]:
    """Run a bundle's cases; ``ok`` is whether every one came out as described.

    Raises:
        ConfigError: the bundle fails its check, or a case cannot be read.
    """
    bundle = _checked(folder, loaded).require()
    report = run(bundle, read_cases(folder or bundle_folders(loaded)[0]))
    return {
        "ok": report.ok,
        "passed": report.passed,
        "failures": [
            {"file": f.file, "case": f.case, "wanted": f.wanted, "got": f.got}
            for f in report.failures
        ],
        "coverage": report.coverage(),
        "unexercised": list(report.unexercised),
    }


def _checked(folder: Path | None, loaded: Loaded) -> Checked:
    configured, templates = bundle_folders(loaded)
    return check(
        folder or configured,
        templates=None if folder else templates,
        check_templates=parse_templates,
    )
