"""What one task's records say, and where they cannot say it.

For every task the chain has to answer five questions (DESIGN.md section 7): the intent and the
policy that approved it; the workload identity asserted; the credential issued for the action; the
tool, dataset or system touched; the revocation or completion that closed it. A finding names the
question, the record it hangs on, and what is missing, in words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from remit.evidence.recovery import ENDS, OUTCOMES, SEALED
from remit.model.decision import Effect
from remit.model.lease import LeaseState
from remit.model.record import Json, Record
from remit.proof.encoding import encode_record
from remit.proof.merkle import leaf_hash

Chain = Sequence[tuple[int, Record]]

AFTER_SEAL = frozenset({SEALED, "task.erased", "call.unknown"})
"""Kinds that may come after a seal: what is done to a closed task, not by it."""
_LEASE_MOVES = frozenset(f"lease.{state.value}" for state in LeaseState)
_LEASE_ENDS = frozenset(
    f"lease.{state.value}"
    for state in (LeaseState.SETTLED, LeaseState.FAILED, LeaseState.IRREVOCABLE)
)


class Question(StrEnum):
    """The five questions, and whether the chain is one at all."""

    INTENT = "intent"
    IDENTITY = "identity"
    CREDENTIAL = "credential"
    TARGET = "target"
    CLOSE = "close"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One question that a task's records do not answer; ``index`` is the record it hangs on.

    ``waits`` is whether the task's end would answer it: while the task is open, it is no fault.
    """

    task: str
    question: Question
    sentence: str
    index: int | None = None
    call: str | None = None
    waits: bool = False


def chain_digest(leaves: Sequence[bytes]) -> str:
    """Return ``sha256:<hex>`` over the leaf hashes of these records, in order."""
    chain = hashlib.sha256()
    for data in leaves:
        chain.update(leaf_hash(data))
    return f"sha256:{chain.hexdigest()}"


def audit(task: str, chain: Chain) -> Sequence[Finding]:
    """Return every finding about one task, in the order of the questions.

    Args:
        task: the task's id.
        chain: its records with their indices, in order, as :meth:`Ledger.chain` gives them.
    """
    calls: dict[str, list[tuple[int, Record]]] = {}
    for index, record in chain:
        if record.call is not None:
            calls.setdefault(record.call, []).append((index, record))
    return [
        *_intent(task, chain),
        *(finding for call, steps in calls.items() for finding in _call(task, call, steps)),
        *_leases(task, chain),
        *_close(task, chain),
        *_whole(task, chain),
    ]


def _intent(task: str, chain: Chain) -> Iterator[Finding]:
    opened = [(index, record) for index, record in chain if record.kind == "task.opened"]
    if not opened:
        yield Finding(
            task=task,
            question=Question.INTENT,
            sentence="no record says under which mandate it was opened",
        )
    for index, _ in opened[1:]:
        yield Finding(
            task=task, question=Question.INTENT, index=index, sentence="it was opened twice"
        )
    for index, record in opened[:1]:
        if "mandate" not in record.body:
            yield Finding(
                task=task,
                question=Question.INTENT,
                index=index,
                sentence="its opening names no mandate",
            )


def _call(task: str, call: str, steps: Chain) -> Iterator[Finding]:
    """Ask of one call: who, decided by which policy, at what target, with exactly one outcome."""
    kinds = [record.kind for _, record in steps]
    decided = [(i, r) for i, r in steps if r.kind == "call.decided"]
    outcomes = [(i, r) for i, r in steps if r.kind in OUTCOMES]
    first = steps[0][0]

    def found(question: Question, sentence: str, index: int = first) -> Finding:
        return Finding(task=task, question=question, sentence=sentence, index=index, call=call)

    if decided and "call.identified" not in kinds:
        yield found(Question.IDENTITY, "it was decided for nobody that was identified")
    for index, record in decided:
        for question, sentence in _decision(record.body):
            yield found(question, sentence, index)
    permitted = [i for i, r in decided if r.body.get("effect") == Effect.PERMIT.value]
    for index, record in outcomes:
        if record.kind == "call.succeeded" and not any(i < index for i in permitted):
            yield found(Question.INTENT, "it acted without a permit before it", index)
        if record.kind == "call.unknown":
            yield found(Question.CLOSE, "whether it acted is unknown", index)
    called = [kind for kind in kinds if kind.startswith("call.")]
    if called and len(outcomes) != 1:
        missing = found(Question.CLOSE, f"it has {len(outcomes)} outcomes, not one")
        yield replace(missing, waits=not outcomes)


def _decision(body: Mapping[str, Json]) -> Iterator[tuple[Question, str]]:
    """Ask of one decision: which policy of which bundle, about what."""
    if not body.get("policies") and body.get("effect") != Effect.DENY.value:
        yield Question.INTENT, "it was permitted by no policy that is named"
    if not body.get("bundle"):
        yield Question.INTENT, "the policy bundle that decided it is not named"
    if not body.get("target"):
        yield Question.TARGET, "what it would touch is not named"


def _leases(task: str, chain: Chain) -> Iterator[Finding]:
    """Ask of every lease: which decision it was for, and whether it was taken back."""
    leases: dict[str, list[tuple[int, Record]]] = {}
    for index, record in chain:
        lease = record.body.get("lease")
        if record.kind in _LEASE_MOVES and isinstance(lease, str):
            leases.setdefault(lease, []).append((index, record))
    permits = [
        index
        for index, record in chain
        if record.kind == "call.decided" and record.body.get("effect") == Effect.PERMIT.value
    ]
    for lease, steps in leases.items():
        first, (last, end) = steps[0][0], steps[-1]
        if not any(index < first for index in permits):
            yield Finding(
                task=task,
                question=Question.CREDENTIAL,
                index=first,
                sentence=f"lease `{lease}` was taken with no permit before it",
            )
        if end.kind not in _LEASE_ENDS:
            yield Finding(
                task=task,
                question=Question.CLOSE,
                index=last,
                sentence=f"lease `{lease}` was never settled: it is {end.kind.partition('.')[2]}",
                waits=True,
            )
        elif end.kind == "lease.settled" and end.body.get("confirmed") is not True:
            yield Finding(
                task=task,
                question=Question.CLOSE,
                index=last,
                sentence=_UNCONFIRMED.get(str(end.body.get("revocation")), _UNCONFIRMED[""]).format(
                    lease
                ),
            )


_UNCONFIRMED = {
    "": "the target did not confirm that lease `{}` was revoked",
    "at_expiry": "lease `{}` could only run out: its target cannot be asked whether it did",
    "never": "lease `{}` gave the use of a long-lived key, which lives on at its service",
}


def _close(task: str, chain: Chain) -> Iterator[Finding]:
    """Ask whether the task ended, and whether its seal covers what came before it."""
    ends = [index for index, record in chain if record.kind in ENDS]
    if not ends:
        yield Finding(
            task=task,
            question=Question.CLOSE,
            sentence="no record says that it ended",
            waits=True,
        )
    seals = [place for place, (_, record) in enumerate(chain) if record.kind == SEALED]
    if ends and not seals:
        yield Finding(task=task, question=Question.CLOSE, sentence="it ended, but was not sealed")
    for place in seals:
        index, record = chain[place]
        said: Mapping[str, object] = record.body
        covered = chain_digest([encode_record(earlier) for _, earlier in chain[:place]])
        if said.get("records") != place or said.get("chain") != covered:
            yield Finding(
                task=task,
                question=Question.CHAIN,
                index=index,
                sentence="its seal does not cover the records before it: some were hidden",
            )
    if seals:
        for index, record in chain[seals[-1] + 1 :]:
            if record.kind not in AFTER_SEAL:
                yield Finding(
                    task=task,
                    question=Question.CLOSE,
                    index=index,
                    sentence=f"`{record.kind}` came after its seal",
                )


def _whole(task: str, chain: Chain) -> Iterator[Finding]:
    """Ask whether every record follows from one that is there, and came before it."""
    seen: set[str] = set()
    for place, (index, record) in enumerate(chain):
        outside = [parent for parent in record.parents if parent not in seen]
        # The opening of a delegated task follows from a record of its parent's chain.
        delegated = place == 0 and isinstance(record.body.get("parent"), str)
        yield from (
            Finding(
                task=task,
                question=Question.CHAIN,
                index=index,
                sentence=f"`{record.kind}` follows from `{parent}`, which is not before it",
            )
            for parent in outside[int(delegated) :]
        )
        seen.add(record.id)
