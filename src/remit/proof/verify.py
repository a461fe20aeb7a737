"""Verifies an evidence pack: offline, with no secret, in numbered steps.

Each step is numbered as docs/spec/pack.md numbers it. The first that fails ends the verification
with a :class:`ProofError` that names it; nothing is ever softened into a warning. What the caller
still owes is in ``does_not_prove``.

=== ========== ====================================================================================
 1  container  one canonical document, as it was written
 2  records    every record is in its canonical form, of this task, in the order of the log
 3  checkpoint the log signed its size and root, and the witnesses named cosigned it
 4  inclusion  every record is in that log, at its index
 5  chain      records follow from earlier ones; the seal covers every record before it
 6  mandate    the task's mandate is the one logged, is signed, and every call ran under it; so are
               those that it was delegated from, up to the root
 7  policy     each decision names a policy bundle that is here, word for word
 8  calls      no call acted without a permit before it; each has one outcome
 9  approvals  each approval that was used had been given, and was used once
 10 leases     each credential was permitted, written down first, and ended
 11 payloads   what is shown in the clear is what was recorded
=== ========== ====================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from remit.model.errors import InputError, ProofError, RemitError
from remit.model.record import Record
from remit.proof import story
from remit.proof.checkpoint import Opened, open_checkpoint
from remit.proof.encoding import decode_record
from remit.proof.mandate import ProvenMandate, check_mandate, check_policy
from remit.proof.merkle import leaf_hash, verify_inclusion
from remit.proof.note import COSIGNATURE_V1, Note, Verified, Verifier
from remit.proof.pack import Pack, decode_pack

T = TypeVar("T")

_CAME = "a key that came with the pack"


@dataclass(frozen=True, slots=True)
class Checked:
    """One step that held, and what it shows."""

    name: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a pack proves. There is no such thing as a verdict of failure: that is an error.

    ``sealed`` says that the task ended and that no record before its seal is missing; where it is
    false the task is open here, and others and later records may exist. ``trusted_key`` says whether the log's key was the caller's own; ``witnesses`` are those
    cosigners whose keys were, each once. ``mandate_key`` is the RFC 7638 thumbprint of the key that signed the
    mandate, which the log names. ``calls`` counts calls by their ending, ``leases`` credentials by their last state.
    """

    task: str
    origin: str
    vkey: str
    size: int
    records: int
    sealed: bool
    trusted_key: bool
    witnesses: tuple[str, ...]
    purpose: str
    workload: str
    on_behalf_of: str
    mandate_key: str
    calls: dict[str, int]
    leases: dict[str, int]
    steps: tuple[Checked, ...]
    proves: tuple[str, ...]
    does_not_prove: tuple[str, ...]


@dataclass(slots=True)
class _Steps:
    """The steps that held so far."""

    held: list[Checked] = field(default_factory=list)

    def take(self, name: str, check: Callable[[], tuple[T, str]]) -> T:
        """Run the next step and return what it found.

        Raises:
            ProofError: it does not hold; names the step.
        """
        try:
            found, sentence = check()
        except RemitError as error:
            raise ProofError(f"step {len(self.held) + 1}, {name}: {error}") from error
        self.held.append(Checked(name, sentence))
        return found


@dataclass(frozen=True, slots=True)
class _Held:
    """The keys that the caller holds: of logs and witnesses, and of the witnesses it asks for."""

    vkeys: frozenset[str]
    witnesses: tuple[Verifier, ...]

    @classmethod
    def of(cls, vkeys: Sequence[str], witnesses: Sequence[str]) -> _Held:
        """Read the caller's keys.

        Raises:
            InputError: one is malformed, or a witness's is not for cosignatures.
        """
        for vkey in vkeys:
            Verifier.parse(vkey)
        named = tuple(Verifier.parse(vkey) for vkey in witnesses)
        for each in named:
            if each.kind != COSIGNATURE_V1:
                raise InputError(
                    f"`{each.name}` has no key for cosignatures: a log's key goes with the vkeys"
                )
        return cls(frozenset(vkeys), named)

    def knows(self, witness: Verifier, *, trusted: bool) -> bool:
        """Say whether this is a witness of the caller's.

        Among the vkeys it counts only beside the log's own; one that was asked for, always.
        """
        return witness in self.witnesses or (trusted and witness.vkey in self.vkeys)


def verify_pack(
    data: bytes,
    vkeys: Sequence[str] = (),
    *,
    witnesses: Sequence[str] = (),
    open_task: bool = False,
) -> Verdict:
    """Verify an evidence pack.

    Args:
        data: the file's bytes.
        vkeys: the public keys (C2SP vkeys) you hold: the log's, and any witnesses'. With none, the
            pack's own key is used, which shows that the pack is whole, not whose it is.
        witnesses: the vkeys of witnesses that have to have cosigned: without them nothing verifies.
        open_task: whether a task that has not ended will do. Nothing then shows that no record is
            missing; a task that ended has to be sealed in any case.

    Raises:
        InputError: one of ``vkeys`` or ``witnesses`` is malformed, or a witness's key cannot cosign.
        ProofError: the pack does not verify; says which step, and why.
    """
    held = _Held.of(vkeys, witnesses)
    steps = _Steps()
    pack = steps.take("container", lambda: _container(data))
    chain = steps.take("records", lambda: _records(pack))
    opened = steps.take("checkpoint", lambda: _checkpoint(pack, held))
    hashes = steps.take("inclusion", lambda: _inclusion(pack, opened))
    steps.take("chain", lambda: (None, _chain(pack, chain, hashes, open_task=open_task)))
    mandate = steps.take("mandate", lambda: _mandate(pack, chain))
    steps.take("policy", lambda: _policy(pack, chain))
    steps.take("calls", lambda: (None, story.check_calls(chain, mandate)))
    steps.take("approvals", lambda: (None, story.check_approvals(chain)))
    leases = steps.take("leases", lambda: _leases(chain))
    steps.take("payloads", lambda: (None, _payloads(pack, chain, mandate)))
    calls = story.counts(chain)
    trusted = pack.vkey in held.vkeys
    cosigned = [each for each in opened.cosignatures if held.knows(each.verifier, trusted=trusted)]
    sealed = story.is_sealed(chain)
    return Verdict(
        task=pack.task,
        origin=pack.origin,
        vkey=pack.vkey,
        size=opened.checkpoint.size,
        records=len(chain),
        sealed=sealed,
        trusted_key=trusted,
        witnesses=tuple(dict.fromkeys(each.verifier.name for each in cosigned)),
        purpose=mandate.text("purpose"),
        workload=mandate.workload,
        on_behalf_of=mandate.text("on_behalf_of"),
        mandate_key=mandate.key.thumbprint,
        calls=calls,
        leases=leases,
        steps=tuple(steps.held),
        proves=(
            *_proves(pack, mandate, calls, leases, sealed=sealed),
            *(_witnessed(each) for each in cosigned),
        ),
        does_not_prove=tuple(_owed(chain, mandate, trusted=trusted, witnessed=bool(cosigned))),
    )


def _container(data: bytes) -> tuple[Pack, str]:
    return decode_pack(data), "one canonical document, not a byte altered"


def _records(pack: Pack) -> tuple[list[tuple[int, Record]], str]:
    chain: list[tuple[int, Record]] = []
    for each in pack.records:
        try:
            record = decode_record(each.data)
        except ProofError as error:
            raise ProofError(f"record {each.index}: {error}") from error
        if record.task != pack.task:
            raise ProofError(f"record {each.index} belongs to another task")
        chain.append((each.index, record))
    if not chain:
        raise ProofError("there is none")
    return chain, f"{len(chain)} records, each in its canonical form, in the order of the log"


def _checkpoint(pack: Pack, held: _Held) -> tuple[Opened, str]:
    own = Verifier.parse(pack.vkey)
    if own.name != pack.origin:
        raise ProofError("the log's key does not bear the log's name")
    if held.vkeys and pack.vkey not in held.vkeys:
        raise ProofError(
            f"the pack is of the log `{pack.vkey}`, which is none of the keys you gave"
        )
    witnesses = [Verifier.parse(vkey) for vkey in pack.witnesses]
    if any(witness.kind != COSIGNATURE_V1 for witness in witnesses):
        raise ProofError("a witness's key is not one for cosignatures")
    opened = open_checkpoint(pack.checkpoint, [own, *witnesses], origin=pack.origin)
    signed = [(s.name, s.key_id) for s in Note.parse(pack.checkpoint).signatures]
    if sorted(signed) != sorted((key.name, key.key_id) for key in [own, *witnesses]):
        raise ProofError("the checkpoint is not signed once by the log and by each witness named")
    for each in held.witnesses:
        if each not in witnesses:
            raise ProofError(f"the witness `{each.name}` did not cosign, with the key you gave")
    said = f"`{pack.origin}` signed its first {opened.checkpoint.size} records"
    trusted = pack.vkey in held.vkeys
    whose = [
        f"{each.name} (by {'the key you gave' if held.knows(each, trusted=trusted) else _CAME})"
        for each in witnesses
    ]
    return opened, f"{said}; cosigned by {', '.join(whose)}" if whose else said


def _witnessed(signature: Verified) -> str:
    seconds = signature.time or 0
    try:
        at = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        at = f"second {seconds}"
    return f"{signature.verifier.name} cosigned this history of the log at {at}, by its own clock"


def _inclusion(pack: Pack, opened: Opened) -> tuple[list[bytes], str]:
    checkpoint = opened.checkpoint
    hashes = [leaf_hash(each.data) for each in pack.records]
    for each, leaf in zip(pack.records, hashes, strict=True):
        try:
            verify_inclusion(leaf, each.index, checkpoint.size, each.proof, checkpoint.root)
        except ProofError as error:
            raise ProofError(f"record {each.index}: {error}") from error
    return hashes, "every record is in that log, at its place, as it was written"


def _chain(
    pack: Pack,
    chain: Sequence[tuple[int, Record]],
    hashes: Sequence[bytes],
    *,
    open_task: bool,
) -> str:
    said = story.check_chain(pack.task, chain, hashes)
    if story.is_sealed(chain):
        return said
    if story.has_ended(chain):
        raise ProofError(
            f"`{pack.task}` ended, but no seal is here: records may have been left out; have it "
            "exported again, with its seal"
        )
    if not open_task:
        raise ProofError(
            f"`{pack.task}` has not ended here, so later records may be missing; have it exported "
            "after its end, or say that an open task will do (`--open-task`)"
        )
    return "every record follows from one before it; the task is open, later records may be missing"


def _mandate(pack: Pack, chain: Sequence[tuple[int, Record]]) -> tuple[ProvenMandate, str]:
    mandate = check_mandate(pack, chain)
    return mandate, (
        f"signed by the authority for {mandate.workload} on behalf of "
        f"{mandate.text('on_behalf_of')}, and every call ran under it"
        + (f" and the {len(mandate.above)} above it" if mandate.above else "")
    )


def _policy(pack: Pack, chain: Sequence[tuple[int, Record]]) -> tuple[int, str]:
    decided = check_policy(pack, chain)
    return decided, f"{decided} decisions, each by a policy bundle that is in the pack, whole"


def _leases(chain: Sequence[tuple[int, Record]]) -> tuple[dict[str, int], str]:
    ends = dict(Counter(story.check_leases(chain).values()))
    if not ends:
        return ends, "no credential was issued"
    said = ", ".join(f"{count} {state}" for state, count in sorted(ends.items()))
    return ends, f"every credential was permitted and written down first: {said}"


def _payloads(pack: Pack, chain: Sequence[tuple[int, Record]], mandate: ProvenMandate) -> str:
    return story.check_payloads(pack.disclosed, pack.withheld, chain, mandate)


def _proves(
    pack: Pack,
    mandate: ProvenMandate,
    calls: dict[str, int],
    leases: dict[str, int],
    *,
    sealed: bool,
) -> list[str]:
    ended = ", ".join(f"{count} {ending}" for ending, count in sorted(calls.items())) or "none"
    whom = f"{mandate.workload} on behalf of {mandate.text('on_behalf_of')}"
    proves = [
        f"task {pack.task} ran for {whom}, to: {mandate.text('purpose')}",
        *_delegated(mandate),
        f"the log names the key that signed its mandate, by thumbprint: {mandate.key.thumbprint}",
        f"{sum(calls.values())} calls ended, each in one way: {ended}",
        "no record of them was altered, left out, or put in another order, up to the seal"
        if sealed
        else "no record of them was altered or put in another order",
        "every call that succeeded was permitted first, for a target of the mandate shown, by policies shown",
    ]
    if leases:
        said = ", ".join(f"{count} {state}" for state, count in sorted(leases.items()))
        proves.append(f"what became of every credential it used: {said}")
    return proves


def _delegated(mandate: ProvenMandate) -> list[str]:
    """Say who handed the task on to whom."""
    above = [f"{each.workload} (of task {each.task})" for each in mandate.above]
    if not above:
        return []
    first = f"{mandate.above[0].workload} delegated it (of task {mandate.above[0].task})"
    return [", and ".join([first, *(f"{each} to that one" for each in above[1:])])]


def _owed(
    chain: Sequence[tuple[int, Record]],
    mandate: ProvenMandate,
    *,
    trusted: bool,
    witnessed: bool,
) -> list[str]:
    owed: list[str] = []
    if not trusted:
        owed.append("whose log it is: the key came with the pack; give the one you hold")
    if not witnessed:
        owed.append("that the log shows everyone one history: no witness that you named cosigned")
    if not story.is_sealed(chain):
        owed.append(
            "that these are all its records: it is open, others and later records may exist"
        )
    else:
        later = story.after_seal(chain)
        owed.append(f"that nothing else followed the seal: {later} records that did are shown")
    owed += [
        f"what was done under `{task}`, which was delegated from it: that has a pack of its own"
        for task in story.delegated(chain)
    ]
    if mandate.above:
        named = ", ".join(f"`{each.task}`" for each in mandate.above)
        owed.append(f"how the tasks above it went, {named}: each has a pack of its own")
    owed += [
        f"that the credential of lease `{lease}` is gone: the target did not confirm it"
        for lease in story.unconfirmed(chain)
    ]
    if unknown := story.counts(chain).get("unknown"):
        owed.append(f"whether {unknown} calls acted: a crash hid how they ended")
    return [
        *owed,
        "that policy was right: it shows which policies decided and their text, and runs none",
        "that arguments were within the mandate: records hold their digests, the policy read them",
        "when things happened, beyond their order: times are the authority's own clock",
        "what went round the gateway, or what an upstream did inside itself with a call",
    ]
