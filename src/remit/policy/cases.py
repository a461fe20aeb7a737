"""Cases that say in words what a bundle must decide, and the run that holds it to them.

A case names what differs from a call that nothing speaks against; everything else is as in
``BASELINE``. A case file is YAML::

    - case: a refund above the mandate's maximum is refused
      given:
        mandate: {violations: ["`amount` is above 100"]}
        arguments: {amount: 250}
      expect: {effect: deny, policies: [argument_out_of_bounds]}

``given`` holds the facts of docs/policy.md by group, and besides them ``agent``, ``action``,
``target`` and ``arguments``. ``expect`` holds the effect, all determining policies, and with
``approval_required`` the role.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from remit.model.decision import Effect
from remit.model.errors import ConfigError, InputError
from remit.policy.arguments import flatten
from remit.policy.bundle import Bundle
from remit.policy.engine import evaluate
from remit.policy.facts import Facts
from remit.policy.schema import builtin_text, types

MAX_CASES = 2000
BASELINE: Mapping[str, Any] = {
    "subject": {
        "agent": "agent",
        "workload": "spiffe://example.org/agent",
        "method": "jwt-svid",
        "issuer": "spiffe://example.org",
        "owner": "owner@example.org",
        "environment": "dev",
        "environment_rank": 0,
        "autonomy": 1,
        "state": "active",
        "max_depth": 4,
    },
    "mandate": {
        "purpose": "a case",
        "template": "template",
        "on_behalf_of": "user:someone",
        "opened_by": "agent:agent",
        "in_template": True,
        "in_mandate": True,
        "violations": [],
        "exhausted": [],
        "approval_role": "",
        "environments": ["dev"],
        "ceiling": 1,
        "egress": [],
        "expires_at": "2026-01-01T01:00:00.000Z",
        "expired": False,
        "delegated": False,
        "depth": 0,
        "delegated_by": "",
    },
    "task": {
        "id": "task",
        "open": True,
        "label": {"confidentiality": 0, "trusted": True, "categories": []},
    },
    "tool": {
        "kind": "tool",
        "state": "accepted",
        "environment": "dev",
        "environment_rank": 0,
        "side_effects": True,
        "label": {"confidentiality": 0, "trusted": True, "categories": []},
        "destinations": [],
    },
    "approval": {"present": False, "role": "", "by": ""},
    "time": {"now": "2026-01-01T00:00:00.000Z", "hour": 0, "weekday": 4},
}
_RANK = {"dev": 0, "staging": 1, "prod": 2}


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle must answer. ``policies`` are all that determine it, in any order."""

    effect: Effect
    policies: tuple[str, ...] = ()
    role: str | None = None


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs from the baseline."""

    agent: str = "agent"
    action: str = "call_tool"
    target: str = "upstream/tool"
    arguments: dict[str, Any] = {}
    subject: dict[str, Any] = {}
    mandate: dict[str, Any] = {}
    task: dict[str, Any] = {}
    tool: dict[str, Any] = {}
    approval: dict[str, Any] = {}
    time: dict[str, Any] = {}


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One described case."""

    case: str
    expect: Expected
    given: Given = Given()


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that came out otherwise."""

    file: str
    case: str
    wanted: str
    got: str

    def __str__(self) -> str:
        return f"{self.file}: {self.case}: wanted {self.wanted}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Report:
    """How a run went; ``unexercised`` are the policies that determined no case's answer."""

    passed: int
    failures: tuple[Failure, ...]
    policies: int
    unexercised: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there were cases, and all came out as they should."""
        return self.passed > 0 and not self.failures

    def coverage(self) -> str:
        """Return the coverage line."""
        exercised = self.policies - len(self.unexercised)
        line = f"{exercised} of {self.policies} policies exercised"
        return (
            f"{line}; no case exercises {', '.join(self.unexercised)}" if self.unexercised else line
        )


def read_case_file(path: str, data: bytes) -> Sequence[Case]:
    """Read one file of cases.

    Raises:
        ConfigError: it is not a list of cases.
    """
    try:
        value = yaml.safe_load(data)
        cases = msgspec.convert(value, type=list[Case])
    except (yaml.YAMLError, msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(
            f"`{path}` is not a list of cases: {' '.join(str(error).split())}"
        ) from error
    if len(cases) > MAX_CASES:
        raise ConfigError(f"`{path}` holds more than {MAX_CASES} cases")
    return cases


def run(
    bundle: Bundle, files: Mapping[str, bytes], obligations: frozenset[str] = frozenset()
) -> Report:
    """Put every case of ``files`` to a bundle.

    Raises:
        ConfigError: a file is not a list of cases, or a case gives a fact that there is not.
    """
    failures: list[Failure] = []
    passed = 0
    exercised: set[str] = set()
    for path in sorted(files):
        for case in read_case_file(path, files[path]):
            verdict = evaluate(bundle, facts_of(path, case), obligations)
            got = Expected(
                verdict.effect,
                tuple(sorted(reason.policy for reason in verdict.reasons)),
                verdict.approval_role,
            )
            want = Expected(
                case.expect.effect, tuple(sorted(case.expect.policies)), case.expect.role
            )
            exercised |= set(got.policies)
            if got == want:
                passed += 1
            else:
                failures.append(Failure(path, case.case, _words(want), _words(got)))
    unexercised = tuple(s.id for s in bundle.sources if s.id not in exercised)
    return Report(passed, tuple(failures), len(bundle.sources), unexercised)


def facts_of(path: str, case: Case) -> Facts:
    """Return the facts of a case.

    Raises:
        ConfigError: it gives a fact that there is not.
    """
    given = case.given
    where = f"`{path}`: {case.case}"
    context = copy.deepcopy(dict(BASELINE))
    for group in ("subject", "mandate", "task", "tool", "approval", "time"):
        _overlay(where, group.capitalize(), context[group], getattr(given, group))
    for group in ("subject", "tool"):
        if "environment_rank" not in getattr(given, group):
            context[group]["environment_rank"] = _RANK.get(context[group]["environment"], 0)
    context["subject"]["agent"] = given.agent
    upstream, _, name = given.target.partition("/")
    context["call"] = {"upstream": upstream, "name": name}
    try:
        flat = flatten(given.arguments)
    except InputError as error:
        raise ConfigError(f"{where}: {error}") from error
    context["argument_names"] = flat.names
    return Facts(
        principal=given.agent,
        action=given.action,
        upstream=upstream,
        target=given.target,
        context=context,
        arguments=flat.text,
        numbers=flat.numbers,
        decimals=flat.decimals,
        argument_types=flat.types,
    )


def _overlay(where: str, kind: str, record: dict[str, Any], given: Mapping[str, Any]) -> None:
    known = {attribute.name: attribute.type for attribute in types(builtin_text())[kind]}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{where}: there is no fact `{name}` in {kind.lower()}")
        if known[name] in types(builtin_text()) and isinstance(value, Mapping):
            _overlay(where, known[name], record[name], value)
        else:
            record[name] = value


def _words(expected: Expected) -> str:
    role = f" from {expected.role}" if expected.role else ""
    return f"{expected.effect.value}{role} by {', '.join(expected.policies) or 'no policy'}"
