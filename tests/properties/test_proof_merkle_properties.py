"""The tree against RFC 6962's own recursive definition, and its proofs against every change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.model.errors import ProofError
from remit.proof.merkle import (
    EMPTY_ROOT,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from remit.proof.tiles import Tile, decode_hash_tile, hash_tile, tiles_of

Made = tuple[list[bytes], Tree]


def _split(count: int) -> int:
    half = 1
    while half * 2 < count:
        half *= 2
    return half


def mth(leaves: list[bytes]) -> bytes:
    """MTH(D[n]) as RFC 6962 section 2.1 words it."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    half = _split(len(leaves))
    return node_hash(mth(leaves[:half]), mth(leaves[half:]))


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]) as RFC 6962 section 2.1.1 words it."""
    if len(leaves) == 1:
        return []
    half = _split(len(leaves))
    if index < half:
        return [*path(index, leaves[:half]), mth(leaves[half:])]
    return [*path(index - half, leaves[half:]), mth(leaves[:half])]


def subproof(old: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF(m, D[n], b) as RFC 6962 section 2.1.2 words it."""
    if old == len(leaves):
        return [] if whole else [mth(leaves)]
    half = _split(len(leaves))
    if old <= half:
        return [*subproof(old, leaves[:half], whole), mth(leaves[half:])]
    return [*subproof(old - half, leaves[half:], whole=False), mth(leaves[:half])]


@st.composite
def trees(draw: st.DrawFn, smallest: int = 1) -> Made:
    size = draw(st.integers(smallest, 70))
    leaves = [bytes([number]) * draw(st.integers(0, 3)) for number in range(size)]
    return leaves, Tree(leaf_hash(leaf) for leaf in leaves)


@given(trees(smallest=0), st.data())
def test_roots_and_proofs_are_those_of_the_recursive_definition(made: Made, data: st.DataObject):
    leaves, tree = made
    size = data.draw(st.integers(0, len(leaves)))
    assert tree.size == len(leaves)
    assert tree.root(size) == mth(leaves[:size])
    if size:
        index = data.draw(st.integers(0, size - 1))
        assert tree.inclusion(index, size) == path(index, leaves[:size])
        old = data.draw(st.integers(1, size))
        assert tree.consistency(old, size) == subproof(old, leaves[:size])


@given(trees(), st.data())
def test_proofs_verify_and_no_other_index_size_root_or_proof_does(made: Made, data: st.DataObject):
    leaves, tree = made
    size = data.draw(st.integers(1, len(leaves)))
    index = data.draw(st.integers(0, size - 1))
    leaf, proof, root = tree.leaf(index), tree.inclusion(index, size), tree.root(size)
    verify_inclusion(leaf, index, size, proof, root)
    wrong = [
        (node_hash(leaf, leaf), index, size, proof, root),
        (leaf, index, size, [*proof, leaf], root),
        (leaf, index, size, proof, node_hash(root, root)),
        (leaf, index + size, size, proof, root),
        (leaf, -1, size, proof, root),
        (leaf, index, size, [each[:-1] for each in proof] or [b""], root),
    ]
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[place][0] ^ 1]) + proof[place][1:]
        wrong.append((leaf, index, size, [*proof[:place], flipped, *proof[place + 1 :]], root))
        wrong.append((leaf, index, size, proof[:-1], root))
    for arguments in wrong:
        with pytest.raises(ProofError):
            verify_inclusion(*arguments)


@given(trees(), st.data())
def test_consistency_verifies_and_no_rewritten_history_does(made: Made, data: st.DataObject):
    leaves, tree = made
    new = data.draw(st.integers(1, len(leaves)))
    old = data.draw(st.integers(1, new))
    proof = tree.consistency(old, new)
    verify_consistency(old, new, tree.root(old), tree.root(new), proof)
    rewritten = Tree(leaf_hash(leaf + b"!") for leaf in leaves)
    wrong = [
        (old, new, rewritten.root(old), tree.root(new), proof),
        (old, new, tree.root(old), rewritten.root(new), proof),
        (old, new, tree.root(old), tree.root(new), [*proof, tree.root()]),
        (new + 1, new, tree.root(old), tree.root(new), proof),
        (0, new, EMPTY_ROOT, tree.root(new), []),
    ]
    if proof:
        wrong.append((old, new, tree.root(old), tree.root(new), proof[1:]))
        wrong.append((old, new, tree.root(old), tree.root(new), []))
    for arguments in wrong:
        with pytest.raises(ProofError):
            verify_consistency(*arguments)


@given(st.integers(0, 1100), st.integers(0, 1100))
def test_the_tiles_of_a_log_are_those_that_its_growth_adds(one: int, other: int):
    since, size = sorted((one, other))
    added = set(tiles_of(size, since=since))
    full = {tile for tile in tiles_of(since) if tile.width == 256}
    assert added == set(tiles_of(size)) - set(tiles_of(since))
    assert set(tiles_of(size)) == added | full | (set(tiles_of(size)) & set(tiles_of(since)))
    assert all(Tile.parse(tile.path) == tile for tile in added)


def test_a_tile_above_the_leaves_holds_the_roots_of_the_tiles_below():
    tree = Tree(leaf_hash(bytes([number % 251])) for number in range(256 * 3 + 5))
    above = decode_hash_tile(hash_tile(tree, Tile(1, 0, 3)), 3)
    for index, root in enumerate(above):
        below = decode_hash_tile(hash_tile(tree, Tile(0, index)), 256)
        assert Tree(below).root() == root
