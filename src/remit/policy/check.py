"""Whether a bundle may become the active one: what is wrong with it, in words.

An error keeps a bundle out; a warning does not. The check is pure but for time: it validates every
policy against the schema, which takes seconds for a large bundle, so run it off the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import cedarpy

from remit.model.errors import ConfigError, RemitError
from remit.policy import cedar
from remit.policy.bundle import Bundle, parse_sources, text_of
from remit.policy.loading import read_folder, strays
from remit.policy.schema import ACTIONS, SCHEMA_FILE, builtin_text
from remit.policy.source import ANNOTATIONS, ID, PLACEHOLDER, PLACEHOLDERS, Source

TemplateCheck = Callable[[Mapping[str, bytes]], object]
"""Reads the templates' raw bytes and raises a RemitError for what is wrong; handed in by the app."""


class Level(StrEnum):
    """An error keeps the bundle from becoming active."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, and where: a file, or a file and a policy."""

    level: Level
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.level.value}: {self.where}: {self.message}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check found; ``bundle`` is there unless one of the findings is an error."""

    bundle: Bundle | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that keep the bundle out."""
        return tuple(f for f in self.findings if f.level is Level.ERROR)

    def require(self) -> Bundle:
        """Return the bundle.

        Raises:
            ConfigError: it has errors; the first is told.
        """
        if self.bundle is None:
            more = len(self.errors) - 1
            raise ConfigError(f"{self.errors[0]}{f' (and {more} more)' if more else ''}")
        return self.bundle


def check(
    folder: Path,
    *,
    templates: Path | None = None,
    check_templates: TemplateCheck | None = None,
    obligations: frozenset[str] = frozenset(),
) -> Checked:
    """Read and check a bundle's folder."""
    try:
        files = read_folder(folder, templates)
        stray = strays(folder)
    except ConfigError as error:
        return Checked(None, (Finding(Level.ERROR, str(folder), str(error)),))
    checked = check_files(files, check_templates=check_templates, obligations=obligations)
    warned = tuple(
        Finding(Level.WARNING, path, "is no part of a bundle, and is not read") for path in stray
    )
    return Checked(checked.bundle, (*checked.findings, *warned))


def check_files(
    files: Mapping[str, bytes],
    *,
    check_templates: TemplateCheck | None = None,
    obligations: frozenset[str] = frozenset(),
) -> Checked:
    """Check a bundle's files, by path."""
    findings: list[Finding] = []
    if files.get(SCHEMA_FILE, builtin_text().encode()) != builtin_text().encode():
        message = "is not the schema of this version of Remit: remove it from the bundle"
        findings.append(Finding(Level.ERROR, SCHEMA_FILE, message))
    sources: list[Source] = []
    for path in sorted(files):
        if path.endswith(".cedar"):
            in_file, faults = _valid(path, files[path])
            sources += in_file
            findings += faults
    findings += _annotated(sources, obligations)
    if sources and all(source.forbids for source in sources):
        findings.append(Finding(Level.WARNING, "bundle", "permits nothing: every policy forbids"))
    raw = {path: data for path, data in files.items() if path.endswith(".toml")}
    try:
        if check_templates is not None:
            check_templates(raw)
    except RemitError as error:
        findings.append(Finding(Level.ERROR, "templates", str(error)))
    if any(finding.level is Level.ERROR for finding in findings):
        return Checked(None, tuple(findings))
    try:
        return Checked(Bundle.of(files), tuple(findings))
    except ConfigError as error:
        return Checked(None, (*findings, Finding(Level.ERROR, "bundle", str(error))))


def _valid(path: str, data: bytes) -> tuple[list[Source], list[Finding]]:
    """Return a file's policies, and where they do not fit the schema."""
    one = {path: data}
    try:
        sources = list(parse_sources(one))
        faults = cedar.validate(text_of(one, path), cedar.schema(builtin_text()))
    except ConfigError as error:
        return [], [Finding(Level.ERROR, path, str(error))]
    places = {f"policy{place}": source.id for place, source in enumerate(sources)}
    return sources, [
        Finding(Level.ERROR, f"{path}: {places.get(position, position)}", message)
        for position, message in faults
    ]


def _annotated(sources: Sequence[Source], obligations: frozenset[str]) -> list[Finding]:
    """Return what is wrong with each policy beside its sense."""
    found: list[Finding] = []
    seen: set[str] = set()
    for source in sources:
        where = f"{source.file}: {source.id}"
        if source.id in seen:
            found.append(Finding(Level.ERROR, where, "another policy has the same @id"))
        seen.add(source.id)
        found += [Finding(level, where, text) for level, text in _wording(source, obligations)]
        if never_applies(source):
            message = "can never apply: its condition is always false"
            found.append(Finding(Level.WARNING, where, message))
    return found


def _wording(source: Source, obligations: frozenset[str]) -> list[tuple[Level, str]]:
    """Return what is wrong with a policy's annotations."""
    notes: Mapping[str, str | None] = source.est.get("annotations", {})
    found: list[tuple[Level, str]] = []
    if not notes.get("id"):
        found.append((Level.ERROR, "has no @id"))
    elif not ID.match(source.id) or source.id.startswith("remit."):
        found.append((Level.ERROR, "its @id is not lower-case words with _ . - (remit. is taken)"))
    if not source.reason:
        found.append((Level.ERROR, "has no @reason, so nobody could be told why"))
    if not source.controls:
        found.append((Level.WARNING, "has no @control"))
    if source.forbids and not source.remedy:
        found.append((Level.WARNING, "has no @remedy, so nobody is told what would help"))
    found.extend(
        (Level.ERROR, f"`{{{name}}}` is not a placeholder")
        for name in PLACEHOLDER.findall(f"{source.reason} {source.remedy or ''}")
        if name not in PLACEHOLDERS
    )
    found.extend(
        (Level.WARNING, f"@{name} means nothing here") for name in notes if name not in ANNOTATIONS
    )
    if source.approval_role and not source.forbids:
        found.append((Level.WARNING, "@approval means nothing on a permit"))
    if source.obligations and source.forbids:
        found.append((Level.WARNING, "@obligation means nothing on a forbid"))
    found.extend(
        (Level.WARNING, f"no enforcement point knows the obligation `{name}`: it will deny")
        for name in source.obligations
        if name not in obligations
    )
    return found


def never_applies(source: Source) -> bool:
    """Whether Cedar can tell, knowing nothing of the request, that a policy never applies."""
    policy = cedar.handle({"it": {**source.est, "effect": "permit"}})
    return all(
        not (result := cedarpy.is_authorized_partial(request, policy, "[]")).allowed
        and not result.diagnostics.nontrivial_residuals
        and not result.diagnostics.errors
        for request in ({"action": f"Action::{json.dumps(action)}"} for action in ACTIONS)
    )
