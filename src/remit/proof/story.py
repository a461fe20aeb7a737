"""Whether one task's records tell a whole story: order, outcomes, leases, seal, payloads."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from remit.model.errors import ProofError
from remit.model.record import Record
from remit.proof.pack import PackedPayload

Chain = Sequence[tuple[int, Record]]

OUTCOMES = {
    "call.succeeded": "succeeded",
    "call.failed": "failed",
    "call.denied": "denied",
    "call.unknown": "unknown",
    "call.unidentified": "refused",
    "call.unadmitted": "refused",
}
_ENDED = {"settled", "failed", "irrevocable"}
SEALED = "task.sealed"


def is_sealed(chain: Chain) -> bool:
    """Return whether the task's end is recorded."""
    return any(record.kind == SEALED for _, record in chain)


def counts(chain: Chain) -> dict[str, int]:
    """Return how many calls ended in which way."""
    return dict(Counter(OUTCOMES[record.kind] for _, record in chain if record.kind in OUTCOMES))


def check_chain(task: str, chain: Chain, hashes: Sequence[bytes]) -> str:
    """Check parents, and each seal's count and hash over the records before it.

    Raises:
        ProofError: a record follows from one that is not before it, or a seal does not match.
    """
    seen: set[str] = set()
    sealed = 0
    for place, (index, record) in enumerate(chain):
        if record.id in seen:
            raise ProofError(f"record {index}: its id was used before")
        for parent in record.parents:
            if parent not in seen:
                raise ProofError(f"record {index} follows from one that is not before it")
        if record.kind == SEALED:
            sealed += 1
            before = hashlib.sha256(b"".join(hashes[:place])).hexdigest()
            if (
                record.body.get("records") != place
                or record.body.get("chain") != f"sha256:{before}"
            ):
                raise ProofError(f"record {index}: records of `{task}` are missing before the seal")
        seen.add(record.id)
    if not sealed:
        return "every record follows from one before it; the task is not sealed"
    return "every record follows from one before it, and the seal counts and hashes them all"


def check_calls(chain: Chain) -> str:
    """Check that each call has one outcome, and a permit before it acted.

    Raises:
        ProofError: a call has two outcomes, none although sealed, or acted without a permit.
    """
    calls: dict[str, list[tuple[int, Record]]] = {}
    for index, record in chain:
        if record.call is not None:
            calls.setdefault(record.call, []).append((index, record))
    finished = is_sealed(chain)
    for call, steps in calls.items():
        kinds = [record.kind for _, record in steps]
        outcomes = [place for place, kind in enumerate(kinds) if kind in OUTCOMES]
        if len(outcomes) > 1:
            raise ProofError(f"call `{call}` has {len(outcomes)} outcomes")
        if not outcomes:
            if finished:
                raise ProofError(f"call `{call}` has no outcome, although the task is sealed")
            continue
        before = steps[: outcomes[0]]
        permitted = [
            place
            for place, (_, record) in enumerate(before)
            if record.kind == "call.decided" and record.body.get("effect") == "permit"
        ]
        said = {record.kind for _, record in before[: permitted[0]]} if permitted else set()
        if kinds[outcomes[0]] in {"call.succeeded", "call.unknown"} and not permitted:
            raise ProofError(f"call `{call}` acted without a permit before it")
        if permitted and not {"call.identified", "call.admitted"} <= said:
            raise ProofError(f"call `{call}` was decided before it was identified and admitted")
    return f"{len(calls)} calls, each with one outcome, and none acted before its permit"


def check_leases(chain: Chain) -> str:
    """Check that every lease ended, once the task is sealed.

    Raises:
        ProofError: a lease is open behind the seal, or was never reserved.
    """
    states: dict[str, list[str]] = {}
    for _, record in chain:
        if record.kind.startswith("lease."):
            states.setdefault(str(record.body.get("lease")), []).append(record.kind[6:])
    for lease, moves in states.items():
        if moves[0] != "reserved":
            raise ProofError(f"lease `{lease}` was not written down before it was issued")
        if is_sealed(chain) and moves[-1] not in _ENDED:
            raise ProofError(f"lease `{lease}` is {moves[-1]}, although the task is sealed")
    if not states:
        return "no credential was issued"
    ends = Counter(moves[-1] for moves in states.values())
    return ", ".join(f"{count} leases {end}" for end, count in sorted(ends.items()))


def check_payloads(
    disclosed: Sequence[PackedPayload], withheld: Sequence[tuple[str, str]], chain: Chain
) -> str:
    """Check each payload that is shown against its record's salted digest.

    Raises:
        ProofError: a payload is not the one that was recorded.
    """
    by_id = {record.id: record for _, record in chain}
    for record_id, name in ((each.record, each.name) for each in disclosed):
        if record_id not in by_id or name not in by_id[record_id].payloads:
            raise ProofError(f"no record speaks of the payload `{name}`")
    for record_id, name in withheld:
        if record_id not in by_id or name not in by_id[record_id].payloads:
            raise ProofError(f"no record speaks of the withheld payload `{name}`")
    for each in disclosed:
        kept = by_id[each.record].payloads[each.name]
        found = f"sha256:{hashlib.sha256(each.salt + each.data).hexdigest()}"
        if kept.get("digest") != found or kept.get("bytes") != len(each.data):
            raise ProofError(f"the payload `{each.name}` is not the one that was recorded")
    total = sum(len(record.payloads) for _, record in chain)
    return f"{len(disclosed)} of {total} payloads are shown; the others stay sealed"
