"""The Merkle tree over the committed records, as they lie in the store.

It only grows: a record is hashed once, when it is first read, and what the store says of an index
that was read before is checked against that hash. The columns that a record is found by have to
say what its bytes say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from remit.evidence.ports import LogReader, StoredLeaf
from remit.model.errors import ProofError
from remit.proof.merkle import Tree, leaf_hash

PAGE = 1000


class Head(msgspec.Struct, frozen=True, gc=False):
    """The part of a record that says what it is about."""

    id: str
    kind: str
    task: str | None
    call: str | None
    body: msgspec.Raw

    @property
    def decision(self) -> str | None:
        """The id of the decision, in ``call.decided``."""
        return self._told().decision

    @property
    def effect(self) -> str | None:
        """What was decided, in ``call.decided``."""
        return self._told().effect

    def _told(self) -> _Decided:
        if self.kind != "call.decided":
            return _UNDECIDED
        return msgspec.json.decode(self.body, type=_Decided)


class _Decided(msgspec.Struct, frozen=True, gc=False):
    decision: str | None = None
    effect: str | None = None


_UNDECIDED = _Decided()
_decoder = msgspec.json.Decoder(Head)


class Log:
    """The tree, and the entries it was made from."""

    def __init__(self, store: LogReader) -> None:
        self._store = store
        self.tree = Tree()
        self._turn = asyncio.Lock()

    @property
    def size(self) -> int:
        """How many records the tree holds."""
        return self.tree.size

    async def follow(self, see: Callable[[Head], None] | None = None) -> int:
        """Take in every committed record that is not in the tree yet; return the new size.

        Args:
            see: is shown each of them, in order.

        Raises:
            ProofError: a record is missing, or is not what it is filed under.
            EvidenceError: the store cannot be read.
        """
        async with self._turn:
            while True:
                leaves = await self._store.leaves(self.tree.size, PAGE)
                for leaf in leaves:
                    if leaf.index != self.tree.size:
                        raise ProofError(f"record {self.tree.size} is missing from the database")
                    head = _head(leaf)
                    if see is not None:
                        see(head)
                    self.tree.append(leaf_hash(leaf.data))
                if len(leaves) < PAGE:
                    return self.tree.size

    async def entries(self, start: int, end: int) -> Sequence[bytes]:
        """Return the bytes of the records from ``start`` up to, not including, ``end``.

        Raises:
            ProofError: a record is not the one that the tree was made from.
            EvidenceError: the store cannot be read.
        """
        entries: list[bytes] = []
        while start < end:
            leaves = await self._store.leaves(start, min(PAGE, end - start))
            for leaf in leaves:
                if leaf.index != start or leaf_hash(leaf.data) != self.tree.leaf(start):
                    raise ProofError(f"record {start} was altered in the database")
                entries.append(leaf.data)
                start += 1
            if not leaves:
                raise ProofError(f"record {start} was deleted from the database")
        return entries


def _head(leaf: StoredLeaf) -> Head:
    """Return what a stored record is about, checked against how it is filed."""
    try:
        head = _decoder.decode(leaf.data)
        decision = head.decision
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProofError(f"record {leaf.index} in the database is not a record") from error
    said = (head.id, head.kind, head.task, head.call, decision)
    if said != (leaf.id, leaf.kind, leaf.task, leaf.call, leaf.decision):
        raise ProofError(f"record {leaf.index} in the database is filed under what it is not")
    return head
