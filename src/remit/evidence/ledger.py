"""The evidence of one authority node: every step becomes a record, in order, and stays one.

The rules it keeps:

- A step is encoded and its payloads are sealed when it is staged, so that a step which cannot be
  a record is refused to whoever brought it and costs nobody else's writes.
- A record is evidence once a barrier returned.
- What was published is never contradicted: :meth:`Ledger.start` proves that the database
  continues the last published checkpoint, or refuses to start.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from remit.evidence.chain import Finding, audit, chain_digest
from remit.evidence.keys import read_or_create
from remit.evidence.log import Head, Log
from remit.evidence.ports import CheckpointKey, EvidenceStore, LeafRow, SealedPayload, StoredLeaf
from remit.evidence.publisher import GRACE_SECONDS, Publisher
from remit.evidence.recovery import OpenCalls, Owed, Unsealed
from remit.evidence.signer import NoteSigner
from remit.evidence.vault import KEY_BYTES, Opened, Vault
from remit.model.errors import EvidenceError, NotFoundError, ProofError
from remit.model.ids import new_id
from remit.model.record import Context, Json, Record, Step
from remit.proof.encoding import decode_record, encode_record
from remit.proof.story import SEALED

Clock = Callable[[], datetime]
ID_BYTES = 10
MAX_PAGE = 1000


def _now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """The recorder that the rooms leave their steps with, and the reader of what they left."""

    def __init__(
        self,
        store: EvidenceStore,
        *,
        folder: Path,
        trust_domain: str,
        clock: Clock = _now,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        publish_grace_seconds: float = GRACE_SECONDS,
        log_key: CheckpointKey | None = None,
    ) -> None:
        """Open the ledger's keys in ``folder``/keys and its log in ``folder``/log.

        Args:
            store: the driver that keeps the records.
            folder: the state folder.
            trust_domain: names the log: its origin is ``<trust domain>/log``.
            clock: gives each record its time.
            randomness: ids, salts, nonces and keys come from it.
            publish_grace_seconds: how long publishing may fail before calls are refused.
            log_key: signs the checkpoints; the file ``keys/log.key`` where None, made on first use.

        Raises:
            ConfigError: a key file cannot be read or made, or others may read it.
        """
        self._store = store
        self._clock = clock
        self._randomness = randomness
        keys = folder / "keys"
        origin = f"{trust_domain}/log"
        self.signer = (
            NoteSigner.open(keys / "log.key", origin, randomness)
            if log_key is None
            else NoteSigner(log_key, origin)
        )
        self.vault = Vault(
            store, read_or_create(keys / "vault.key", KEY_BYTES, randomness), randomness=randomness
        )
        self.log = Log(store)
        self.publisher = Publisher(
            self.log, self.signer, folder / "log", grace_seconds=publish_grace_seconds
        )
        self._sealing: dict[str, bool] = {}
        self._owed = Owed(self.find)
        self._started = False
        self._unsealed: dict[str, None] = {}
        self.last_at: datetime | None = None
        """When the last record before this start was left, by the clock of then."""
        self._sealing_owed = asyncio.Lock()

    @property
    def epoch(self) -> int:
        """How many groups of writes were lost so far."""
        return self._store.epoch

    def stage(self, step: Step, context: Context) -> str:
        """Stage a step as a record and return the record's id. Durable only after a barrier.

        Raises:
            InputError: the step cannot be a record: too large, a float, malformed.
            EvidenceError: nothing can be staged.
        """
        now = self._clock()
        record_id = new_id("rec", now, self._randomness(ID_BYTES))
        digests: dict[str, Mapping[str, Json]] = {}
        sealed = []
        for payload in step.payloads:
            kept, digest = self.vault.seal(record_id, context.task, payload.name, payload.data)
            sealed.append(kept)
            digests[payload.name] = {"digest": digest, "bytes": len(payload.data)}
        record = Record(
            id=record_id,
            kind=step.kind,
            at=now,
            body=step.body,
            payloads=digests,
            task=context.task,
            call=context.call,
            parents=context.parents,
            trace=context.trace,
        )
        self._store.stage_leaf(row_of(record, encode_record(record), tuple(sealed)))
        if self._sealing and context.task in self._sealing:
            self._sealing[context.task] = True
        return record_id

    async def barrier(self) -> None:
        """Wait until everything staged so far is durable.

        Raises:
            EvidenceError: it was lost.
        """
        await self._store.barrier()

    def health(self) -> str | None:
        """Return None when records are written and published, else what is wrong."""
        if not self._started:
            return "evidence has not started"
        return self._store.health() or self.publisher.health()

    def refusal(self) -> str | None:
        """Return None while calls may act, else why not.

        A record that cannot be written stops every call at once. One that is durable and not yet
        published stops them only after a grace (ADR 7); ``health`` tells before.
        """
        if not self._started:
            return "evidence has not started"
        return self._store.health() or self.publisher.refusal()

    async def start(self) -> None:
        """Prove that the database continues what was published, finish what a crash cut off.

        Raises:
            ProofError: it does not continue it, or a record was altered. Nothing is written.
            ConfigError: the vault's key is not the one that sealed what is stored.
            EvidenceError: the store cannot be read or written.
        """
        await self.vault.check()
        calls, unsealed = OpenCalls(), Unsealed()

        def see(head: Head) -> None:
            calls.see(head)
            unsealed.see(head)

        await self.log.follow(see)
        await self.publisher.resume()
        self.last_at = next((r.at for _, r in await self.records(self.log.size - 2, 1)), None)
        for step, context in calls.steps():
            self.stage(step, context)
        await self.barrier()
        self._unsealed = dict.fromkeys(unsealed.tasks)
        self.publisher.start()
        self._started = True

    def owe(self, call: str, leave: Callable[[], None]) -> None:
        """Remember to say a call's outcome again, with ``leave``, where it turns out to be lost."""
        self._owed.add(call, leave)

    async def pay(self) -> None:
        """Say again what is owed and lost; where the store is down still, later."""
        await self._owed.pay()

    async def close(self) -> None:
        """Sign a last checkpoint over everything that is durable, and stop."""
        if self._started:
            self._started = False
            await self.publisher.close()

    async def seal_task(self, task_id: str) -> None:
        """Stage ``task.sealed``: how many records the task has, and the digest of their chain.

        ``chain`` is SHA-256 over the leaf hashes of the task's earlier records, in order. A record
        that comes later is not covered, and shows as one after the seal.

        Raises:
            EvidenceError: the earlier records cannot be read.
        """
        if task_id in self._sealing:
            raise EvidenceError(f"task `{task_id}` is being sealed already")
        try:
            while True:
                self._sealing[task_id] = False
                leaves = await self._store.of_task(task_id)
                if not self._sealing[task_id]:
                    break
            chain = chain_digest([leaf.data for leaf in leaves])
            self._sealing.pop(task_id)
            self.stage(
                Step(kind="task.sealed", body={"records": len(leaves), "chain": chain}),
                Context(task=task_id, parents=(leaves[-1].id,) if leaves else ()),
            )
        finally:
            self._sealing.pop(task_id, None)

    @property
    def unsealed(self) -> tuple[str, ...]:
        """Tasks that ended and are to be sealed: after a crash, or once their leases are over."""
        return tuple(self._unsealed)

    def owe_seal(self, task_id: str) -> None:
        """Remember that a task ended, until :meth:`seal_owed` sealed it."""
        self._unsealed[task_id] = None

    async def seal_owed(self, task_id: str) -> None:
        """Seal a task that ended, once, and wait until that is durable.

        Raises:
            EvidenceError: it is not, or its earlier records cannot be read; it is owed still.
        """
        async with self._sealing_owed:  # two at once would both find no seal, and leave two
            sealed = any(leaf.kind == SEALED for leaf in await self._store.of_task(task_id))
            if not sealed:
                await self.seal_task(task_id)
            await self.barrier()
            self._unsealed.pop(task_id, None)

    async def erase_task(self, task_id: str, by: str) -> int:
        """Destroy the keys of a task's payloads, and record who did. The chain stays whole.

        Args:
            task_id: whose payloads can never be opened again.
            by: the person, as records name people.

        Returns:
            How many keys were destroyed; none is not an error.

        Raises:
            EvidenceError: the erasure is not durable: try again.
        """
        keys = await self.vault.erase(task_id)
        self.stage(Step(kind="task.erased", body={"by": by, "keys": keys}), Context(task=task_id))
        await self.barrier()
        return keys

    async def records(self, after: int = -1, limit: int = 100) -> Sequence[tuple[int, Record]]:
        """Return at most ``limit`` (up to 1,000) records with an index above ``after``.

        Raises:
            ProofError: a stored record is not one.
        """
        leaves = await self._store.leaves(after + 1, min(limit, MAX_PAGE))
        return [read(leaf) for leaf in leaves]

    async def leaves(self, task_id: str) -> Sequence[StoredLeaf]:
        """Return every record of a task as it is stored: the bytes that were hashed."""
        return await self._store.of_task(task_id)

    async def chain(self, task_id: str) -> Sequence[tuple[int, Record]]:
        """Return every record of a task with its index, in order; empty where there are none.

        Raises:
            ProofError: a stored record is not one.
        """
        return [read(leaf) for leaf in await self._store.of_task(task_id)]

    async def audit(self, task_id: str) -> Sequence[Finding]:
        """Return where a task's records leave one of the five questions open.

        Raises:
            ProofError: a stored record is not one.
        """
        return audit(task_id, await self.chain(task_id))

    async def find(self, id: str) -> Sequence[tuple[int, Record]]:  # noqa: A002 - it is the id
        """Return the records with this record, call or decision id, in order.

        Raises:
            ProofError: a stored record is not one.
        """
        return [read(leaf) for leaf in await self._store.find(id)]

    async def tasks(self, after: str | None = None, limit: int = 100) -> Sequence[str]:
        """Return at most ``limit`` (up to 1,000) ids of tasks above ``after``, in order."""
        return await self._store.tasks(after, min(limit, MAX_PAGE))

    async def open_payload(self, record: str, name: str) -> Opened | None:
        """Return a payload in the clear, checked against its record; None where it was erased.

        Whoever calls this has made sure that the reader may see it.

        Raises:
            NotFoundError: there is no such record or payload.
            ProofError: what is stored is not what the record says.
        """
        found = [kept for _, kept in await self.find(record) if kept.id == record]
        if not found or name not in found[0].payloads:
            raise NotFoundError(f"record `{record}` has no payload `{name}`")
        opened = await self.vault.open(record, name)
        if opened is not None and opened.digest != found[0].payloads[name]["digest"]:
            raise ProofError(f"payload `{name}` of record `{record}` was replaced")
        return opened


def row_of(record: Record, data: bytes, payloads: tuple[SealedPayload, ...] = ()) -> LeafRow:
    """Return the row of a record, with the columns it is found by."""
    decision = record.body.get("decision") if record.kind == "call.decided" else None
    return LeafRow(
        record.id,
        record.kind,
        record.task,
        record.call,
        decision if isinstance(decision, str) else None,
        data,
        payloads,
    )


def read(leaf: StoredLeaf) -> tuple[int, Record]:
    """Return a stored leaf as its index and record.

    Raises:
        ProofError: its bytes are no record.
    """
    return leaf.index, decode_record(leaf.data)
