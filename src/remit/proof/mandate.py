"""Whether a task ran under its signed mandate, and was decided by the policy that is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
    ``calls`` how many its budget allows, None without that limit.
    """

    digest: str
    claims: Mapping[str, Any]
    key: Jwk
    workload: str
    expires: int
    capabilities: tuple[tuple[str, str], ...]
    calls: int | None

    def text(self, claim: str) -> str:
        """Return one claim for people."""
        value = self.claims.get(claim)
        return "nobody" if value is None else str(value)

    def in_force(self, at: datetime) -> bool:
        """Say whether it had not expired yet."""
        return at.timestamp() < self.expires

    def covers(self, action: object, target: object) -> bool:
        """Say whether a capability is about this action on this target.

        A capability's target that ends in ``*`` covers every target that begins so. Arguments are
        no part of a record, so what they may be is not looked at.
        """
        if not isinstance(target, str):
            return False
        return any(
            action == allowed
            and (target == at or (at.endswith("*") and target.startswith(at[:-1])))
            for allowed, at in self.capabilities
        )


def check_mandate(pack: Pack, chain: Chain) -> ProvenMandate:
    """Check that the log names this mandate, that it is signed, and that every call ran under it.

    Raises:
        ProofError: there is not exactly one, it is of another task or workload, its signature does
            not verify, or a call was admitted under another.
    """
    opening, signed = _opening(chain), _signed(pack)
    name = digest(signed.encode())
    if opening.body.get("mandate") != name:
        raise ProofError("the mandate is not the one that the task was opened under")
    if opening.body.get("signed_mandate", signed) != signed:
        raise ProofError("the log holds another mandate than the pack")
    claims, key = verify_jws(signed, pack.keys)
    if claims.get("jti") != pack.task:
        raise ProofError("the mandate is of another task")
    workload, expires = claims.get("sub"), claims.get("exp")
    if not isinstance(workload, str) or not isinstance(expires, int) or isinstance(expires, bool):
        raise ProofError("the mandate names no workload or no end")
    if claims.get("iss") != f"spiffe://{pack.origin.removesuffix('/log')}":
        raise ProofError("the mandate was issued by another authority than the log's")
    mandate = ProvenMandate(
        digest=name,
        claims=claims,
        key=key,
        workload=workload,
        expires=expires,
        capabilities=_capabilities(claims),
        calls=_budget(claims),
    )
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


def _signed(pack: Pack) -> str:
    if len(pack.mandates) != 1:
        raise ProofError(f"the pack holds {len(pack.mandates)} mandates: a task has one")
    if [key.kid for key in pack.keys] != [kid_of(pack.mandates[0])]:
        raise ProofError("the pack's keys are not the one key that the mandate names")
    return pack.mandates[0]


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
    for claim in _REPEATED:
        if claim in opening.body and opening.body[claim] != mandate.claims.get(claim):
            raise ProofError(f"the task's opening and its mandate differ in `{claim}`")


def _check_bound(chain: Chain, mandate: ProvenMandate) -> None:
    for index, record in chain:
        if record.kind == "call.admitted" and record.body.get("mandate") != mandate.digest:
            raise ProofError(f"record {index}: a call was admitted under another mandate")
        if record.kind == "call.identified" and record.body.get("workload") != mandate.workload:
            raise ProofError(f"record {index}: a call came from another workload")
