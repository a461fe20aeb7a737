"""Everything of one task that a relying party needs, taken under one published checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from remit.evidence.ledger import Ledger
from remit.evidence.vault import Opened
from remit.model.errors import EvidenceError, NotFoundError, ProofError
from remit.model.record import Record
from remit.proof.encoding import decode_record
from remit.proof.merkle import leaf_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """One record with its place: ``proof`` leads from its leaf hash to the checkpoint's root."""

    index: int
    data: bytes = field(repr=False)
    record: Record
    proof: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosed:
    """One payload in the clear, with the salt that its record's digest was made with."""

    record: str
    name: str
    salt: bytes = field(repr=False)
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """A task's evidence.

    ``checkpoint`` is the signed note that every proof leads to; ``size`` is its size. ``vkey`` is
    the log's key. ``mandates`` are the task's signed mandate and those that it was delegated from,
    the nearest first; ``bundles`` the digests of the policy bundles that decided, each once, in
    order. ``withheld`` are payloads that were asked for and whose key was erased.
    """

    task: str
    origin: str
    vkey: str
    checkpoint: bytes
    size: int
    records: Sequence[Proven]
    mandates: Sequence[str]
    bundles: Sequence[str]
    disclosed: Sequence[Disclosed] = ()
    withheld: Sequence[tuple[str, str]] = ()


async def gather(ledger: Ledger, task_id: str, *, disclose: Collection[str] = ()) -> Gathered:
    """Gather a task's evidence, publishing a checkpoint that covers all of it first.

    Args:
        ledger: where the records are.
        task_id: whose they are.
        disclose: the names of the payloads to put in in the clear (``prompt``, ``facts``, …); none
            by default. Whoever calls this has made sure that the reader may see them.

    Raises:
        NotFoundError: the log has no record of such a task.
        EvidenceError: the log cannot be read or published.
        ProofError: what is stored is not what was recorded.
    """
    await ledger.barrier()
    await ledger.publisher.publish()
    published, note = ledger.publisher.published, ledger.publisher.note
    if published is None or note is None:
        raise EvidenceError("the log has not been published yet")
    tree = ledger.log.tree
    proven: list[Proven] = []
    for leaf in await ledger.leaves(task_id):
        if leaf.index >= published.size:
            break  # left after the checkpoint
        if leaf_hash(leaf.data) != tree.leaf(leaf.index):
            raise ProofError(f"record {leaf.index} was altered in the database")
        proven.append(
            Proven(
                index=leaf.index,
                data=leaf.data,
                record=decode_record(leaf.data),
                proof=tree.inclusion(leaf.index, published.size),
            )
        )
    if not proven:
        raise NotFoundError(f"the log knows no task `{task_id}`")
    disclosed: list[Disclosed] = []
    withheld: list[tuple[str, str]] = []
    for record in (item.record for item in proven):
        for name in record.payloads:
            if name not in disclose:
                continue
            opened: Opened | None = await ledger.open_payload(record.id, name)
            if opened is None:
                withheld.append((record.id, name))
            else:
                disclosed.append(
                    Disclosed(record=record.id, name=name, salt=opened.salt, data=opened.data)
                )
    return Gathered(
        task=task_id,
        origin=ledger.signer.origin,
        vkey=ledger.signer.vkey,
        checkpoint=note,
        size=published.size,
        records=proven,
        mandates=await _mandates(ledger, proven),
        bundles=_said(proven, "call.decided", "bundle"),
        disclosed=disclosed,
        withheld=withheld,
    )


async def _mandates(ledger: Ledger, proven: Sequence[Proven]) -> Sequence[str]:
    """Return the task's signed mandate, and those of the tasks that it was delegated from.

    Raises:
        ProofError: the opening of one of them is not in the log, or was altered.
    """
    found = list(_said(proven, "task.opened", "signed_mandate"))
    openings = [item.record for item in proven if item.record.kind == "task.opened"]
    while openings and isinstance(parent := openings[-1].body.get("parent"), str):
        openings.append(await _opening(ledger, parent))
        found.append(str(openings[-1].body.get("signed_mandate")))
    return found


async def _opening(ledger: Ledger, task_id: str) -> Record:
    for leaf in await ledger.leaves(task_id):
        if leaf.kind != "task.opened":
            continue
        if leaf_hash(leaf.data) != ledger.log.tree.leaf(leaf.index):
            raise ProofError(f"record {leaf.index} was altered in the database")
        return decode_record(leaf.data)
    raise ProofError(f"the log has no opening of `{task_id}`, which delegated this task")


def _said(proven: Sequence[Proven], kind: str, member: str) -> Sequence[str]:
    """Return what records of ``kind`` say in ``member``, each once, in order."""
    said = (item.record.body.get(member) for item in proven if item.record.kind == kind)
    return list(dict.fromkeys(text for text in said if isinstance(text, str)))
