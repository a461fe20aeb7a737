"""Why a decision came out as it did, found by making it again from what evidence kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remit.model.decision import Effect
from remit.model.errors import InputError
from remit.model.record import Json
from remit.policy.bundle import Bundle
from remit.policy.engine import Verdict, evaluate
from remit.policy.facts import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One determining policy: its words, its text, and the facts it read with their values.

    ``facts`` may hold arguments: they come out of the vault, and are for eyes that may see it.
    """

    policy: str
    sentence: str
    remedy: str | None
    controls: tuple[str, ...]
    file: str | None
    text: str | None
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision made again. ``agrees`` is whether it came out as it was recorded.

    ``errors`` are Cedar's own words, and may hold values too.
    """

    effect: Effect
    agrees: bool
    differences: tuple[str, ...]
    bundle_digest: str
    approval_role: str | None
    policies: tuple[Explained, ...]
    errors: tuple[str, ...]


def explain(
    body: Mapping[str, Json],
    facts: bytes,
    bundle: Bundle,
    obligations: frozenset[str] = frozenset(),
) -> Explanation:
    """Make a recorded decision again and explain it.

    Args:
        body: the body of the ``call.decided`` record.
        facts: its payload ``facts``, opened.
        bundle: the bundle to ask; where its digest is not the record's, that is a difference.
        obligations: those that the enforcement points knew.

    Raises:
        InputError: the facts are not facts, or policy was not shown any.
    """
    if not facts:
        raise InputError("no policy was asked: the decision was made without facts")
    given = Facts.read(facts)
    verdict = evaluate(bundle, given, obligations)
    differences = _differences(body, verdict, bundle.digest)
    return Explanation(
        effect=verdict.effect,
        agrees=not differences,
        differences=tuple(differences),
        bundle_digest=bundle.digest,
        approval_role=verdict.approval_role,
        policies=tuple(_explained(bundle, given, verdict)),
        errors=verdict.raw_errors or verdict.errors,
    )


def _differences(body: Mapping[str, Json], verdict: Verdict, digest: str) -> Sequence[str]:
    found = []
    if body.get("bundle") != digest:
        found.append(f"it was decided by bundle `{body.get('bundle')}`, and this is `{digest}`")
    if body.get("effect") != verdict.effect.value:
        found.append(f"it was `{body.get('effect')}`, and is now `{verdict.effect.value}`")
    recorded = body.get("policies")
    policies = recorded if isinstance(recorded, Sequence) else ()
    before = sorted(str(p["id"]) for p in policies if isinstance(p, Mapping))
    now = sorted(reason.policy for reason in verdict.reasons)
    if before != now:
        found.append(f"determined by `{', '.join(before)}`, and now by `{', '.join(now)}`")
    return found


def _explained(bundle: Bundle, facts: Facts, verdict: Verdict) -> Sequence[Explained]:
    explained = []
    for reason in verdict.reasons:
        source = bundle.by_id.get(reason.policy)
        explained.append(
            Explained(
                policy=reason.policy,
                sentence=reason.sentence,
                remedy=reason.remedy,
                controls=reason.controls,
                file=source.file if source else None,
                text=source.text if source else None,
                facts={
                    ".".join(path) or "context": _at(facts, path)
                    for path in sorted(source.reads if source else ())
                },
            )
        )
    return explained


def _at(facts: Facts, path: Sequence[str]) -> Any:
    """Return the value at a path, or None where there is none."""
    value: Any = {
        **facts.context,
        "arguments": facts.arguments,
        "numbers": facts.numbers,
        "decimals": facts.decimals,
        "argument_types": facts.argument_types,
    }
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
