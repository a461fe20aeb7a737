"""The Merkle tree of the evidence log: hashing, proofs, and checking them.

RFC 6962 section 2.1 and RFC 9162 section 2.1, with SHA-256. A leaf's hash has the prefix 0x00 and
a node's 0x01, so that no node can pose as a leaf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from remit.model.errors import InputError, ProofError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves (RFC 9162 section 2.1.1)."""


def leaf_hash(data: bytes) -> bytes:
    """Return SHA-256(0x00 || data) (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right) (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """An append-only tree in memory: 32 bytes for every complete subtree, about 64 a leaf.

    ``level[k]`` holds, one after another, the hashes of the complete subtrees of 2^k leaves, which
    is exactly what hash tiles are cut from.
    """

    def __init__(self, leaf_hashes: Iterable[bytes] = ()) -> None:
        self._levels: list[bytearray] = [bytearray()]
        for item in leaf_hashes:
            self.append(item)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> int:
        """Add one leaf by its hash and return its index.

        Raises:
            InputError: the hash is not 32 bytes.
        """
        if len(leaf) != HASH_BYTES:
            raise InputError(f"a leaf hash is {HASH_BYTES} bytes, not {len(leaf)}")
        index, level, current = self.size, 0, leaf
        self._levels[0] += leaf
        position = index
        while position & 1:
            left = bytes(self._levels[level][-2 * HASH_BYTES : -HASH_BYTES])
            current = node_hash(left, current)
            level += 1
            position >>= 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += current
        return index

    def nodes(self, level: int, first: int, count: int) -> bytes:
        """Return ``count`` hashes of complete subtrees of 2^``level`` leaves, from ``first`` on.

        Raises:
            InputError: the tree does not hold them all.
        """
        held = len(self._levels[level]) // HASH_BYTES if 0 <= level < len(self._levels) else 0
        if first < 0 or count < 0 or first + count > held:
            raise InputError(f"level {level} holds {held} hashes: not {count} from {first} on")
        if not count:
            return b""
        return bytes(self._levels[level][first * HASH_BYTES : (first + count) * HASH_BYTES])

    def leaf(self, index: int) -> bytes:
        """Return the hash of one leaf.

        Raises:
            InputError: the tree has no such leaf.
        """
        return self.nodes(0, index, 1)

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first ``size`` leaves, over all of them by default.

        Raises:
            InputError: the tree never had that size.
        """
        size = self._size_or(size)
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return PATH(index, D[size]), lowest first (RFC 9162 section 2.1.3.1).

        Raises:
            InputError: there is no such leaf in a tree of that size.
        """
        size = self._size_or(size)
        if not 0 <= index < size:
            raise InputError(f"a tree of {size} leaves has no leaf {index}")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._hash(middle, high))
                high = middle
            else:
                path.append(self._hash(low, middle))
                low = middle
        return path[::-1]

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """Return PROOF(old, D[new]), lowest first (RFC 9162 section 2.1.4.1).

        The proof from the empty tree does not exist: everything is consistent with nothing.

        Raises:
            InputError: not 0 < old <= new <= size.
        """
        new = self._size_or(new)
        if not 0 < old <= new:
            raise InputError(f"there is no consistency proof from size {old} to {new}")
        path: list[bytes] = []
        low, high, whole = 0, new, True
        while old != high:
            middle = low + _split(high - low)
            if old <= middle:
                path.append(self._hash(middle, high))
                high = middle
            else:
                path.append(self._hash(low, middle))
                low, whole = middle, False
        if not whole:
            path.append(self._hash(low, high))
        return path[::-1]

    def _size_or(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise InputError(f"the tree has {self.size} leaves, not {size}")
        return size

    def _hash(self, low: int, high: int) -> bytes:
        """Return MTH(D[low:high]), where ``low`` is a multiple of the subtree's width."""
        width = high - low
        if width & (width - 1) == 0:
            return self.nodes(width.bit_length() - 1, low // width, 1)
        middle = low + _split(width)
        return node_hash(self._hash(low, middle), self._hash(middle, high))


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf with this hash is number ``index`` under ``root``.

    RFC 9162 section 2.1.3.2.

    Raises:
        ProofError: it is not shown to be.
    """
    _require_hashes(leaf, root, *proof)
    if not 0 <= index < size:
        raise ProofError(f"a tree of {size} leaves has no leaf {index}")
    computed = leaf
    for sibling, on_left in _climb(index, size - 1, proof, "inclusion"):
        computed = node_hash(sibling, computed) if on_left else node_hash(computed, sibling)
    if computed != root:
        raise ProofError(f"leaf {index} is not under this root")


def verify_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree under ``new_root`` starts with the tree under ``old_root``.

    RFC 9162 section 2.1.4.2. An ``old`` of 0 is refused: it would prove nothing.

    Raises:
        ProofError: it is not shown to.
    """
    _require_hashes(old_root, new_root, *proof)
    if not 0 < old <= new:
        raise ProofError(f"there is no consistency proof from size {old} to {new}")
    if old == new:
        if proof:
            raise ProofError("the consistency proof of one size with itself is empty")
        if old_root != new_root:
            raise ProofError(f"there are two roots for size {old}")
        return
    whole = old & (old - 1) == 0  # the old tree is one complete subtree: its root is not repeated
    path = [old_root, *proof] if whole else list(proof) or [b""]
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_computed = new_computed = path[0]
    for sibling, on_left in _climb(position, last, path[1:], "consistency"):
        if on_left:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
        else:
            new_computed = node_hash(new_computed, sibling)
    if old_computed != old_root:
        raise ProofError(f"the consistency proof does not lead to the root of size {old}")
    if new_computed != new_root:
        raise ProofError(f"the consistency proof does not lead to the root of size {new}")


def _climb(position: int, last: int, proof: Sequence[bytes], kind: str) -> list[tuple[bytes, bool]]:
    """Return each sibling of the path from ``position`` up, and whether it is on the left.

    ``position`` and ``last`` are fn and sn of RFC 9162 sections 2.1.3.2 and 2.1.4.2.
    """
    sides: list[bool] = []
    while last:
        on_left = bool(position & 1) or position == last
        sides.append(on_left)
        while on_left and position and not position & 1:
            position, last = position >> 1, last >> 1
        position, last = position >> 1, last >> 1
    if len(proof) != len(sides):
        raise ProofError(f"the {kind} proof has {len(proof)} hashes: it takes {len(sides)}")
    return list(zip(proof, sides, strict=True))


def _split(width: int) -> int:
    """Return the largest power of two smaller than ``width`` (which is at least 2)."""
    return 1 << ((width - 1).bit_length() - 1)


def _require_hashes(*hashes: bytes) -> None:
    for item in hashes:
        if len(item) != HASH_BYTES:
            raise ProofError(f"a hash is {HASH_BYTES} bytes, not {len(item)}")
