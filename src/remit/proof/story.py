"""Whether one task's records tell a whole story: order, outcomes, approvals, leases, seal, payloads.

Every check reads the order of the log, never the records' own times: the log's order is what its
checkpoint fixes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from remit.model.errors import ProofError
from remit.model.record import Record
from remit.proof.encoding import parse_strict
from remit.proof.mandate import Chain, ProvenMandate
from remit.proof.pack import PackedPayload

OUTCOMES = {
    "call.succeeded": "succeeded",
    "call.failed": "failed",
    "call.denied": "denied",
    "call.unknown": "unknown",
    "call.unidentified": "refused",
    "call.unadmitted": "refused",
}
SEALED = "task.sealed"
LEASE_ENDS = ("settled", "failed", "irrevocable")

_ENDS = frozenset({"task.completed", "task.cancelled", "task.expired"})
_ACTED = frozenset({"call.succeeded", "call.unknown"})
_STAGES = {
    "call.identified": 1,
    "call.admitted": 2,
    "call.decided": 3,
    **dict.fromkeys(OUTCOMES, 4),
}
_APPROVALS = frozenset({"asked", "approved", "denied", "used", "expired"})
_LEASES = frozenset({"reserved", "issued", "settling", "unknown", *LEASE_ENDS})
_LEASE_REMARKS = frozenset({"used", "refused", "revoke_asked"})
"""What is said of a lease that is there, and moves it nowhere."""
_NOT_AFTER_END = frozenset(
    {"task.opened", "task.delegated", "lease.reserved", "lease.used", "approval.used"}
)
_NOT_AFTER_SEAL = frozenset({"lease.issued"})


def has_ended(chain: Chain) -> bool:
    """Return whether the task's end is among the records."""
    return any(record.kind in _ENDS for _, record in chain)


def is_sealed(chain: Chain) -> bool:
    """Return whether the task's end is sealed."""
    return any(record.kind == SEALED for _, record in chain)


def after_seal(chain: Chain) -> int:
    """Return how many records the last seal does not cover."""
    seals = [place for place, (_, record) in enumerate(chain) if record.kind == SEALED]
    return len(chain) - 1 - seals[-1] if seals else 0


def counts(chain: Chain) -> dict[str, int]:
    """Return how many calls ended in which way."""
    return dict(Counter(OUTCOMES[record.kind] for _, record in chain if record.kind in OUTCOMES))


def check_chain(task: str, chain: Chain, hashes: Sequence[bytes]) -> str:
    """Check ids, parents, the task's one end, and each seal over the records before it.

    Parents are record ids. An id inside a record is covered by that record's leaf hash, and every
    record of the chain is proven to be in the log, so a parent's hash would bind nothing more.

    Raises:
        ProofError: a record follows from one that is not before it, or a seal does not match.
    """
    seen: set[str] = set()
    ended = sealed = False
    before = hashlib.sha256()
    for place, ((index, record), leaf) in enumerate(zip(chain, hashes, strict=True)):
        if record.id in seen:
            raise ProofError(f"record {index}: its id was used before")
        if sum(parent not in seen for parent in record.parents) > _from_parent(place, record):
            raise ProofError(f"record {index} follows from one that is not before it")
        if ended:
            _check_late(index, record, sealed=sealed)
        if record.kind == SEALED:
            if not ended:
                raise ProofError(f"record {index}: the task was sealed before it ended")
            covered = f"sha256:{before.copy().hexdigest()}"
            if record.body.get("records") != place or record.body.get("chain") != covered:
                raise ProofError(f"record {index}: records of `{task}` are missing before the seal")
            sealed = True
        ended = ended or record.kind in _ENDS
        seen.add(record.id)
        before.update(leaf)
    if not sealed:
        return "every record follows from one before it; the task is not sealed"
    return "every record follows from one before it, and the seal counts and hashes them all"


def delegated(chain: Chain) -> list[str]:
    """Return the tasks that were delegated from this one, in order."""
    kinds = ((index, record) for index, record in chain if record.kind == "task.delegated")
    return [_text(index, record, "child") for index, record in kinds]


def _from_parent(place: int, record: Record) -> int:
    """Return how many records of another chain a record may follow from: a delegated opening's one."""
    opening = place == 0 and record.kind == "task.opened"
    return int(opening and isinstance(record.body.get("parent"), str))


def check_calls(chain: Chain, mandate: ProvenMandate) -> str:
    """Check each call: identified, admitted, decided, acted only if permitted, ended once.

    Raises:
        ProofError: a call has two outcomes, none although sealed, acted without a permit, or was
            permitted what the mandate does not cover.
    """
    calls: dict[str, list[tuple[int, Record]]] = {}
    late: set[str] = set()
    ended = False
    for index, record in chain:
        ended = ended or record.kind in _ENDS
        if ended and record.kind == "call.decided":
            late.add(record.id)
        if record.kind.startswith("call.") and record.call is None:
            raise ProofError(f"record {index}: `{record.kind}` names no call")
        if record.call is not None:
            calls.setdefault(record.call, []).append((index, record))
    finished, running = is_sealed(chain), 0
    for call, steps in calls.items():
        outcome, decided = _check_call(call, steps, mandate)
        if outcome is None and finished:
            raise ProofError(f"call `{call}` has no outcome, although the task is sealed")
        if outcome == "call.succeeded" and decided in late:
            raise ProofError(f"call `{call}` was permitted after the task ended")
        running += outcome is None
    _check_budget(counts(chain), mandate)
    said = f"{len(calls)} calls, none acted before its permit, each with one outcome"
    return f"{said}, but for {running} under way" if running else said


def check_approvals(chain: Chain) -> str:
    """Check that each approval that was used had been given by somebody, and was used once.

    Raises:
        ProofError: it was not, was taken back or expired before, or was used twice.
    """
    states: dict[str, str] = {}
    given: set[str] = set()
    used: set[str] = set()
    for index, record in chain:
        if not record.kind.startswith("approval."):
            continue
        approval, state = _text(index, record, "approval"), record.kind.removeprefix("approval.")
        if state not in _APPROVALS:
            raise ProofError(f"record {index}: `{record.kind}` is not a step of an approval")
        if state == "approved":
            _text(index, record, "decided_by")
            given.add(approval)
        if state == "used":
            if states.get(approval) != "approved" or approval in used:
                raise ProofError(f"record {index}: the approval used was not given, or used before")
            used.add(approval)
        states[approval] = state
    if not given:
        return "no approval was given or used"
    return f"{len(given)} approvals given, {len(used)} used, each once and only after it was given"


def check_leases(chain: Chain) -> dict[str, str]:
    """Check that each credential was permitted, written down first, and taken back.

    Returns:
        Each lease's last state: an end (``settled``, ``failed``, ``irrevocable``) where the task is
        sealed.

    Raises:
        ProofError: a lease was taken or used without a permit, issued before it was written down,
            moved or used after its end, or is open although the task is sealed.
    """
    states: dict[str, str] = {}
    permitted: set[str | None] = set()
    for index, record in chain:
        if record.kind == "call.decided" and record.body.get("effect") == "permit":
            permitted |= {record.call, None}
        if not record.kind.startswith("lease."):
            continue
        lease, state = _text(index, record, "lease"), record.kind.removeprefix("lease.")
        if state in {"reserved", "used"} and record.call not in permitted:
            raise ProofError(f"lease `{lease}` was taken without a permit before it")
        if state in _LEASE_REMARKS:
            _check_remark(lease, states.get(lease), state)
            continue
        _check_move(lease, states.get(lease), state)
        states[lease] = state
    if is_sealed(chain):
        for lease, state in states.items():
            if state not in LEASE_ENDS:
                raise ProofError(f"lease `{lease}` is {state}, although the task is sealed")
    return states


def unconfirmed(chain: Chain) -> list[str]:
    """Return the leases that ended without the target's word that the credential is gone."""
    last = {
        str(record.body.get("lease")): record
        for _, record in chain
        if record.kind.startswith("lease.") and record.kind[len("lease.") :] not in _LEASE_REMARKS
    }
    return [
        lease
        for lease, record in last.items()
        if record.kind == "lease.irrevocable"
        or (record.kind == "lease.settled" and record.body.get("confirmed") is not True)
    ]


def check_payloads(
    disclosed: Sequence[PackedPayload],
    withheld: Sequence[tuple[str, str]],
    chain: Chain,
    mandate: ProvenMandate,
) -> str:
    """Check each payload that is shown against its record's salted digest, the prompt's twice.

    Raises:
        ProofError: a payload is not the one that was recorded.
    """
    by_id = {record.id: record for _, record in chain}
    shown = [(each.record, each.name) for each in disclosed]
    _check_named([*shown, *withheld], by_id)
    for each in disclosed:
        kept = by_id[each.record].payloads[each.name]
        found = f"sha256:{hashlib.sha256(each.salt + each.data).hexdigest()}"
        if kept.get("digest") != found or kept.get("bytes") != len(each.data):
            raise ProofError(f"the payload `{each.name}` is not the one that was recorded")
        if by_id[each.record].kind == "task.opened" and each.name == "prompt":
            _check_prompt(each.data, mandate)
    total = sum(len(record.payloads) for _, record in chain)
    said = f"{len(disclosed)} of {total} payloads are shown; the others are digests only"
    return f"{said}, {len(withheld)} of them erased" if withheld else said


def _check_call(
    call: str, steps: Sequence[tuple[int, Record]], mandate: ProvenMandate
) -> tuple[str | None, str | None]:
    """Check one call's records, in order; return its outcome's kind and its decision's record."""
    found: dict[int, Record] = {}
    issued = leased = False
    for index, record in steps:
        leased = leased or record.kind == "lease.reserved"
        issued = issued or record.kind == "lease.issued"
        if not record.kind.startswith("call."):
            continue
        stage = _STAGES.get(record.kind)
        if stage is None:
            raise ProofError(f"record {index}: `{record.kind}` is not a step of a call")
        if found and stage <= max(found):
            raise ProofError(f"call `{call}`: `{record.kind}` came too late, or twice")
        found[stage] = record
        if stage == _STAGES["call.succeeded"] and leased and not issued:
            _refuse_if(record.kind == "call.succeeded", call, "acted before its credential")
    decided, outcome = found.get(_STAGES["call.decided"]), found.get(_STAGES["call.succeeded"])
    _refuse_if(not found, call, "has records, but no step of its own")
    if decided is not None:
        _refuse_if(not {1, 2} <= found.keys(), call, "was decided before it was admitted")
        _check_decided(call, decided, mandate)
    if outcome is not None:
        _check_outcome(call, decided, outcome, mandate)
    return outcome.kind if outcome else None, decided.id if decided else None


def _check_decided(call: str, decided: Record, mandate: ProvenMandate) -> None:
    if decided.body.get("effect") == "permit":
        covered = mandate.covers(decided.body.get("action"), decided.body.get("target"))
        _refuse_if(not covered, call, "was permitted what its mandate does not cover")


def _check_budget(ended: dict[str, int], mandate: ProvenMandate) -> None:
    for calls in (each.calls for each in mandate.chain if each.calls is not None):
        if ended.get("succeeded", 0) > calls:
            raise ProofError(f"more calls succeeded than the {calls} of a mandate's budget")


def _check_outcome(
    call: str, decided: Record | None, outcome: Record, mandate: ProvenMandate
) -> None:
    permitted = decided is not None and decided.body.get("effect") == "permit"
    _refuse_if(outcome.kind in _ACTED and not permitted, call, "acted without a permit before it")
    if decided is None:
        return
    denied = decided.body.get("effect") == "deny"
    _refuse_if(denied and outcome.kind != "call.denied", call, "was denied, and ended otherwise")
    for member in ("target", "decision"):
        said = outcome.body.get(member)
        differs = said is not None and said != decided.body.get(member)
        _refuse_if(differs, call, f"ended with another {member} than was decided")
    expired = outcome.kind == "call.succeeded" and not mandate.in_force(decided.at)
    _refuse_if(expired, call, "was permitted after its mandate expired")


def _check_named(names: Iterable[tuple[str, str]], by_id: dict[str, Record]) -> None:
    seen: set[tuple[str, str]] = set()
    for record, name in names:
        if record not in by_id or name not in by_id[record].payloads:
            raise ProofError(f"no record speaks of the payload `{name}`")
        if (record, name) in seen:
            raise ProofError(f"the payload `{name}` is both shown and withheld")
        seen.add((record, name))


def _check_prompt(data: bytes, mandate: ProvenMandate) -> None:
    """Check the prompt that is shown against the digest that the mandate was signed over."""
    document = parse_strict(data)
    try:
        salted = bytes.fromhex(document["salt"]) + document["prompt"].encode()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProofError("the prompt's payload does not hold a salt and a prompt") from error
    if mandate.claims.get("prompt") != f"sha256:{hashlib.sha256(salted).hexdigest()}":
        raise ProofError("the prompt is not the one that the mandate was signed for")


def _check_late(index: int, record: Record, *, sealed: bool) -> None:
    """Check that what came after the task's end, or its seal, brought no new authority."""
    if record.kind in _ENDS:
        raise ProofError(f"record {index}: the task ended twice")
    if record.kind in _NOT_AFTER_END:
        raise ProofError(f"record {index}: `{record.kind}` came after the task ended")
    permit = record.kind == "call.decided" and record.body.get("effect") == "permit"
    if sealed and (permit or record.kind in _NOT_AFTER_SEAL):
        raise ProofError(f"record {index}: `{record.kind}` came after the task was sealed")


def _check_move(lease: str, before: str | None, state: str) -> None:
    """Check that a lease may go from one state to the next; None is before its first."""
    if state not in _LEASES:
        raise ProofError(f"lease `{lease}` is {state}, which is no state of a lease")
    if before is None and state != "reserved":
        raise ProofError(f"lease `{lease}` was not written down before it was issued")
    if before is not None and state == "reserved":
        raise ProofError(f"lease `{lease}` was taken twice")
    if state == "issued" and before not in {"reserved", "issued"}:
        raise ProofError(f"lease `{lease}` was issued after it was {before}")
    # What is revoked may be revoked again: its target minted late, or did not answer before.
    if before in LEASE_ENDS and state not in LEASE_ENDS:
        raise ProofError(f"lease `{lease}` became {state} after it was {before}")


def _check_remark(lease: str, before: str | None, remark: str) -> None:
    """Check that something may be said of a lease that is in a state."""
    if before is None:
        raise ProofError(f"lease `{lease}` was not written down before it was {remark}")
    if remark == "used" and before not in {"reserved", "issued"}:
        raise ProofError(f"lease `{lease}` was used after it was {before}")


def _refuse_if(wrong: bool, call: str, sentence: str) -> None:  # noqa: FBT001 - the condition
    if wrong:
        raise ProofError(f"call `{call}` {sentence}")


def _text(index: int, record: Record, member: str) -> str:
    value = record.body.get(member)
    if not isinstance(value, str):
        raise ProofError(f"record {index}: `{record.kind}` names no {member}")
    return value
