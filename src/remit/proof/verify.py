"""Verifies an evidence pack: offline, with no secret, in numbered steps.

Each step is numbered as docs/spec/pack.md numbers it. The first that fails ends the verification
with a :class:`ProofError` that names it; nothing is ever softened into a warning. What the caller
still owes is in ``does_not_prove``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remit.model.errors import ProofError, RemitError
from remit.model.record import Record
from remit.proof.checkpoint import Opened, open_checkpoint
from remit.proof.encoding import decode_record
from remit.proof.jws import verify_es256
from remit.proof.merkle import leaf_hash, verify_inclusion
from remit.proof.note import Verifier
from remit.proof.pack import Pack, decode_pack, manifest_digest
from remit.proof.story import (
    check_calls,
    check_chain,
    check_leases,
    check_payloads,
    counts,
    is_sealed,
)


@dataclass(frozen=True, slots=True)
class Checked:
    """One step that held, and what it shows."""

    name: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a pack proves. There is no such thing as a verdict of failure: that is an error."""

    task: str
    origin: str
    vkey: str
    size: int
    calls: dict[str, int]
    steps: tuple[Checked, ...]
    proves: tuple[str, ...]
    does_not_prove: tuple[str, ...]


@dataclass(slots=True)
class _Work:
    """What the steps find out on their way."""

    pack: Pack
    records: list[tuple[int, Record]] = field(default_factory=list)
    opened: Opened | None = None
    steps: list[Checked] = field(default_factory=list)

    def step(self, name: str, run: Callable[[], str]) -> None:
        number = len(self.steps) + 1
        try:
            self.steps.append(Checked(name, run()))
        except RemitError as error:
            raise ProofError(f"step {number}, {name}: {error}") from error


def verify_pack(data: bytes, vkeys: Sequence[str] = ()) -> Verdict:
    """Verify an evidence pack.

    Args:
        data: the file's bytes.
        vkeys: public keys (C2SP vkeys) that you hold for the log's, and of witnesses. With none,
            the pack's own key is used, which shows that the pack is whole, not whose it is.

    Raises:
        ProofError: the pack does not verify; says which step, and why.
    """
    try:
        pack = decode_pack(data)
    except RemitError as error:
        raise ProofError(f"step 1, container: {error}") from error
    work = _Work(pack)
    work.steps.append(Checked("container", "one canonical document, not a byte altered"))
    work.step("records", lambda: _records(work))
    work.step("checkpoint", lambda: _checkpoint(work, vkeys))
    work.step("inclusion", lambda: _inclusion(work))
    work.step("chain", lambda: check_chain(pack.task, work.records, _hashes(pack)))
    work.step("calls", lambda: check_calls(work.records))
    work.step("leases", lambda: check_leases(work.records))
    work.step("mandate", lambda: _mandate(work))
    work.step("policy", lambda: _policy(work))
    work.step("payloads", lambda: check_payloads(pack.disclosed, pack.withheld, work.records))
    return _verdict(work, vkeys)


def _hashes(pack: Pack) -> list[bytes]:
    return [leaf_hash(each.data) for each in pack.records]


def _records(work: _Work) -> str:
    before = -1
    for each in work.pack.records:
        if each.index <= before:
            raise ProofError("the records are not in the order of the log")
        before = each.index
        record = decode_record(each.data)
        if record.task != work.pack.task:
            raise ProofError(f"record {each.index} belongs to another task")
        work.records.append((each.index, record))
    if not work.records:
        raise ProofError("there is none")
    return f"{len(work.records)} records, each in its canonical form"


def _checkpoint(work: _Work, vkeys: Sequence[str]) -> str:
    pack = work.pack
    own = Verifier.parse(pack.vkey)
    if own.name != pack.origin:
        raise ProofError("the log's key does not bear the log's name")
    if vkeys and pack.vkey not in vkeys:
        raise ProofError(
            f"the pack is of the log `{pack.vkey}`, which is none of the keys you gave"
        )
    verifiers = [Verifier.parse(vkey) for vkey in dict.fromkeys((pack.vkey, *vkeys))]
    work.opened = open_checkpoint(pack.checkpoint, verifiers, origin=pack.origin)
    if work.opened.log != own:
        raise ProofError("the checkpoint is signed by another key than the log's")
    size = work.opened.checkpoint.size
    said = f"`{pack.origin}` signed its first {size} records"
    if work.opened.witnesses:
        said += f"; witnessed by {', '.join(work.opened.witnesses)}"
    return said


def _inclusion(work: _Work) -> str:
    if work.opened is None:
        raise ProofError("there is no checkpoint")
    checkpoint = work.opened.checkpoint
    for each in work.pack.records:
        try:
            verify_inclusion(
                leaf_hash(each.data), each.index, checkpoint.size, each.proof, checkpoint.root
            )
        except ProofError as error:
            raise ProofError(f"record {each.index}: {error}") from error
    return "every record is in that log, at its place, as it was written"


def _mandate(work: _Work) -> str:
    named: dict[str, Record] = {}
    for _, record in work.records:
        if record.kind == "task.opened":
            named[str(record.body.get("mandate"))] = record
    given = {}
    for signed in work.pack.mandates:
        digest, claims = verify_es256(signed, work.pack.keys)
        given[digest] = claims
    if set(given) != set(named):
        raise ProofError("the mandates in the pack are not those the task was opened under")
    for digest, record in named.items():
        claims = given[digest]
        if claims.get("jti") != work.pack.task or claims.get("sub") != record.body.get("workload"):
            raise ProofError("the mandate is of another task or another workload")
    _bound(work.records, given)
    if not named:
        return "no record opens the task, so no mandate is needed"
    claims = next(iter(given.values()))
    return f"signed by the authority: {claims.get('sub')} on behalf of {claims.get('on_behalf_of')}"


def _bound(records: Sequence[tuple[int, Record]], given: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that every call ran under one of these mandates, for its workload."""
    workloads = {claims.get("sub") for claims in given.values()}
    for index, record in records:
        if record.kind == "call.admitted" and record.body.get("mandate") not in given:
            raise ProofError(f"record {index}: a call was admitted under another mandate")
        if record.kind == "call.identified" and record.body.get("workload") not in workloads:
            raise ProofError(f"record {index}: a call came from another workload")


def _policy(work: _Work) -> str:
    for digest, files in work.pack.bundles.items():
        if manifest_digest(files) != digest:
            raise ProofError("a policy bundle is not the one its digest names")
    decided = 0
    used = set()
    for index, record in work.records:
        if record.kind != "call.decided":
            continue
        decided += 1
        used.add(record.body.get("bundle"))
        if record.body.get("bundle") not in work.pack.bundles:
            raise ProofError(f"record {index}: the bundle that decided is not in the pack")
    if used != set(work.pack.bundles):
        raise ProofError("the pack holds a policy bundle that decided nothing")
    return f"{decided} decisions, each by a policy bundle that is in the pack, word for word"


def _verdict(work: _Work, vkeys: Sequence[str]) -> Verdict:
    pack = work.pack
    sealed = is_sealed(work.records)
    missing = [
        "that the log shows everyone the same history: compare its checkpoint with a witness's",
        "that policy was right: it shows which policies decided, and their text",
        "what an upstream did inside itself with a call",
    ]
    if not vkeys:
        missing.insert(0, "whose log it is: the key came with the pack; give the one you hold")
    if not sealed:
        missing.append("that nothing followed: the task is not sealed, later records may exist")
    if work.opened is None:
        raise ProofError("there is no checkpoint")
    numbers = counts(work.records)
    return Verdict(
        task=pack.task,
        origin=pack.origin,
        vkey=pack.vkey,
        size=work.opened.checkpoint.size,
        calls=numbers,
        steps=tuple(work.steps),
        proves=(
            f"{sum(numbers.values())} calls of task {pack.task} and how each ended: "
            + ", ".join(f"{count} {ending}" for ending, count in sorted(numbers.items())),
            "no record of them was altered, left out between others, or put in another order"
            if sealed
            else "no record of them was altered or put in another order",
            "every call that succeeded was permitted first, under the mandate shown",
        ),
        does_not_prove=tuple(missing),
    )
