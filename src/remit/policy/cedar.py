"""Cedar, through ``cedarpy``: the only module that knows it.

A policy is kept as Cedar's own JSON form (``Est``) under its ``@id``, so that the answer names the
policies that determined it. What is parsed is parsed once; a call only reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cedarpy

from remit.model.errors import ConfigError

Est = Mapping[str, Any]
"""One policy in Cedar's JSON policy format."""
Handle = cedarpy.PolicySet
Schema = cedarpy.Schema
Entities = cedarpy.Entities

NO_ENTITIES = cedarpy.Entities.from_json_str("[]")


@dataclass(frozen=True, slots=True)
class Answer:
    """What Cedar said. ``errors`` are its own words, and may hold values: never record them."""

    allowed: bool
    determining: tuple[str, ...]
    errors: tuple[str, ...]


def parse(text: str) -> tuple[dict[str, Est], dict[str, Est]]:
    """Return the policies of a Cedar text, and its templates, by position (``policy0``, …).

    Raises:
        ConfigError: it is not Cedar.
    """
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise ConfigError(one_line(str(error))) from error
    return dict(parsed.get("staticPolicies", {})), dict(parsed.get("templates", {}))


def handle(policies: Mapping[str, Est]) -> Handle:
    """Parse policies into a handle; the answer names them by these keys.

    Raises:
        ConfigError: Cedar does not take them.
    """
    document = {"staticPolicies": policies, "templates": {}, "templateLinks": []}
    try:
        return cedarpy.PolicySet.from_json_str(json.dumps(document), release_gil=True)
    except ValueError as error:
        raise ConfigError(one_line(str(error))) from error


def render(policy: Est) -> str:
    """Return one policy as Cedar text."""
    document = {"staticPolicies": {"policy0": policy}, "templates": {}, "templateLinks": []}
    return cedarpy.policies_from_json_str(json.dumps(document)).strip()


def schema(text: str) -> Schema:
    """Parse a schema.

    Raises:
        ConfigError: it is not one.
    """
    try:
        return cedarpy.Schema.from_str(text, release_gil=True)
    except ValueError as error:
        raise ConfigError(one_line(str(error))) from error


def validate(text: str, against: Schema) -> list[tuple[str, str]]:
    """Check policies against a schema; return (position, what is wrong) for each fault."""
    result = cedarpy.validate_policies(text, against, release_gil=True)
    if result.validation_passed:
        return []
    return [(e.policy_id, one_line(e.error)) for e in result.errors] or [("", "not valid")]


def ask(
    policies: Handle,
    request: Mapping[str, Any],
    entities: str | Entities,
    against: Schema | None,
) -> Answer:
    """Put one request to Cedar. Whatever keeps it from an answer is an error, and not a permit."""
    result = cedarpy.is_authorized(dict(request), policies, entities, schema=against)
    errors = tuple(str(error) for error in result.diagnostics.errors)
    return Answer(
        allowed=result.decision is cedarpy.Decision.Allow,
        determining=tuple(result.diagnostics.reasons),
        errors=errors,
    )


def one_line(text: str) -> str:
    """Return a message of Cedar's on one line."""
    return " ".join(text.split())


def reads(policy: Est) -> frozenset[tuple[str, ...]]:
    """Return the facts that a policy reads: attribute paths from ``context``; ``()`` is all."""
    found: set[tuple[str, ...]] = set()
    for condition in policy.get("conditions", ()):
        _walk(condition.get("body"), found)
    return frozenset(found)


def _walk(node: Any, found: set[tuple[str, ...]]) -> None:
    path = _path(node)
    if path is not None:
        found.add(path)
        return
    if isinstance(node, Mapping):
        if set(node) == {"Value"}:
            return
        below: Iterable[Any] = node.values()
    elif isinstance(node, list):
        below = node
    else:
        return
    for inner in below:
        _walk(inner, found)


def _path(node: Any) -> tuple[str, ...] | None:
    """Return the path that a chain of ``context.a.b`` or ``context has a`` names."""
    if not isinstance(node, Mapping) or len(node) != 1:
        return None
    if node.get("Var") == "context":
        return ()
    inner = node.get(".") or node.get("has")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("attr"), str):
        return None
    above = _path(inner.get("left"))
    return None if above is None else (*above, inner["attr"])
