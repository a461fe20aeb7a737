"""Whether a task ran under its signed mandate, and was decided by the policy that is shown.

A delegated task has a chain of mandates: each names the one above it by digest, so that the log,
which commits to the task's own, commits to them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

from remit.model.errors import ProofError
from remit.model.record import Record
from remit.proof.encoding import digest
from remit.proof.jws import Jwk, kid_of, verify_jws
from remit.proof.pack import Pack, manifest_digest

Chain = Sequence[tuple[int, Record]]

_REPEATED = ("template", "template_digest", "on_behalf_of", "opened_by", "prompt")
"""Claims that ``task.opened`` repeats, so that people can read them in the chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenMandate:
    """The mandate as it was signed.

    ``expires`` is in Unix seconds, ``capabilities`` are its pairs of action and target, and
    ``calls`` how many its budget allows, None without that limit. ``above`` are the mandates that it
    was delegated from, the nearest first: each bounds it.
    """

    digest: str
    claims: Mapping[str, Any]
    key: Jwk
    workload: str
    expires: int
    capabilities: tuple[tuple[str, str], ...]
    calls: int | None
    above: tuple[ProvenMandate, ...] = ()

    @property
    def chain(self) -> tuple[ProvenMandate, ...]:
        """This mandate and all above it."""
        return (self, *self.above)

    @property
    def task(self) -> str:
        """The id of its task."""
        return str(self.claims.get("jti"))

    def text(self, claim: str) -> str:
        """Return one claim for people."""
        value = self.claims.get(claim)
        return "nobody" if value is None else str(value)

    def in_force(self, at: datetime) -> bool:
        """Say whether neither it nor one above it had expired yet."""
        return all(at.timestamp() < each.expires for each in self.chain)

    def covers(self, action: object, target: object) -> bool:
        """Say whether a capability of each mandate in the chain is about this action on this target.

        A capability's target that ends in ``*`` covers every target that begins so. Arguments are
        no part of a record, so what they may be is not looked at.
        """
        if not isinstance(target, str):
            return False
        return all(
            any(
                action == allowed
                and (target == at or (at.endswith("*") and target.startswith(at[:-1])))
                for allowed, at in each.capabilities
            )
            for each in self.chain
        )


def check_mandate(pack: Pack, chain: Chain) -> ProvenMandate:
    """Check that the log names this mandate, that it is signed, and that every call ran under it.

    Raises:
        ProofError: one of its chain is missing or one too many, is of another task, workload, person
            or authority than it has to be, or lives longer than the one above it; a signature does
            not verify; or a call was admitted under another.
    """
    opening = _opening(chain)
    line = _line(pack)
    for lower, upper in pairwise(line):
        _check_link(lower, upper)
    mandate = replace(line[0], above=tuple(line[1:]))
    if opening.body.get("mandate") != mandate.digest:
        raise ProofError("the mandate is not the one that the task was opened under")
    if opening.body.get("signed_mandate", pack.mandates[0]) != pack.mandates[0]:
        raise ProofError("the log holds another mandate than the pack")
    if mandate.task != pack.task:
        raise ProofError("the mandate is of another task")
    _check_opening(opening, mandate)
    _check_bound(chain, mandate)
    return mandate


def check_policy(pack: Pack, chain: Chain) -> int:
    """Check that each decision's bundle is in the pack, word for word; return how many decided.

    Raises:
        ProofError: a bundle is missing, altered or not needed.
    """
    for name, files in pack.bundles.items():
        if manifest_digest(files) != name:
            raise ProofError("a policy bundle is not the one its digest names")
    used: set[str] = set()
    decided = [(index, record) for index, record in chain if record.kind == "call.decided"]
    for index, record in decided:
        bundle = record.body.get("bundle")
        if not isinstance(bundle, str) or bundle not in pack.bundles:
            raise ProofError(f"record {index}: the bundle that decided is not in the pack")
        used.add(bundle)
    if used != set(pack.bundles):
        raise ProofError("the pack holds a policy bundle that decided nothing")
    return len(decided)


def _opening(chain: Chain) -> Record:
    openings = [record for _, record in chain if record.kind == "task.opened"]
    if len(openings) != 1 or chain[0][1] is not openings[0]:
        raise ProofError("the chain does not start with the one record that opens the task")
    return openings[0]


def _line(pack: Pack) -> list[ProvenMandate]:
    """Return the pack's mandates, each as it was signed: the task's own, then those above it.

    Raises:
        ProofError: there is none, the last has one above it, or a key is missing or one too many.
    """
    if not pack.mandates:
        raise ProofError("the pack holds no mandate")
    if [key.kid for key in pack.keys] != sorted({kid_of(signed) for signed in pack.mandates}):
        raise ProofError("the pack's keys are not those that the mandates name")
    line = [_proven(signed, pack) for signed in pack.mandates]
    if line[-1].claims.get("parent") is not None:
        raise ProofError("the mandate that the last one was delegated from is not in the pack")
    if len({each.workload for each in line}) != len(line):
        raise ProofError("a workload is twice in the chain of mandates")
    return line


def _proven(signed: str, pack: Pack) -> ProvenMandate:
    claims, key = verify_jws(signed, pack.keys)
    workload, expires = claims.get("sub"), claims.get("exp")
    if not isinstance(workload, str) or not isinstance(expires, int) or isinstance(expires, bool):
        raise ProofError("the mandate names no workload or no end")
    if claims.get("iss") != f"spiffe://{pack.origin.removesuffix('/log')}":
        raise ProofError("the mandate was issued by another authority than the log's")
    return ProvenMandate(
        digest=digest(signed.encode()),
        claims=claims,
        key=key,
        workload=workload,
        expires=expires,
        capabilities=_capabilities(claims),
        calls=_budget(claims),
    )


def _check_link(lower: ProvenMandate, upper: ProvenMandate) -> None:
    """Check that one mandate was delegated from the other, and narrows what can be told from both."""
    named = {"task": upper.task, "mandate": upper.digest, "workload": upper.workload}
    if lower.claims.get("parent") != named:
        raise ProofError(f"the mandate of `{lower.task}` was not delegated from the one after it")
    if lower.claims.get("on_behalf_of") != upper.claims.get("on_behalf_of"):
        raise ProofError(f"the mandate of `{lower.task}` is for another person than its parent's")
    if lower.expires > upper.expires:
        raise ProofError(f"the mandate of `{lower.task}` lives longer than its parent's")


def _capabilities(claims: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = claims.get("capabilities")
    try:
        pairs = [(each["action"], each["target"]) for each in found or ()]
    except (KeyError, TypeError) as error:
        raise ProofError("a capability of the mandate names no action or no target") from error
    if not pairs or not all(isinstance(part, str) for pair in pairs for part in pair):
        raise ProofError("the mandate has no capabilities, each an action and a target")
    return tuple(pairs)


def _budget(claims: Mapping[str, Any]) -> int | None:
    budget = claims.get("budget")
    calls = budget.get("calls") if isinstance(budget, Mapping) else None
    if calls is not None and (not isinstance(calls, int) or isinstance(calls, bool)):
        raise ProofError("the calls of the mandate's budget are not a number")
    return calls


def _check_opening(opening: Record, mandate: ProvenMandate) -> None:
    if opening.body.get("workload") != mandate.workload:
        raise ProofError("the task was opened for another workload than the mandate's")
    above = mandate.above[0].task if mandate.above else None
    if opening.body.get("parent") != above:
        raise ProofError("the task was delegated from another task than its mandate")
    for claim in _REPEATED:
        if claim in opening.body and opening.body[claim] != mandate.claims.get(claim):
            raise ProofError(f"the task's opening and its mandate differ in `{claim}`")


def _check_bound(chain: Chain, mandate: ProvenMandate) -> None:
    for index, record in chain:
        if record.kind == "call.admitted" and record.body.get("mandate") != mandate.digest:
            raise ProofError(f"record {index}: a call was admitted under another mandate")
        if record.kind == "call.identified" and record.body.get("workload") != mandate.workload:
            raise ProofError(f"record {index}: a call came from another workload")
