"""Tiles: names, hashes and entries as C2SP tlog-tiles lays them out."""

import pytest

from remit.model.errors import InputError, ProofError
from remit.proof.merkle import Tree, leaf_hash
from remit.proof.tiles import (
    Tile,
    decode_bundle,
    decode_hash_tile,
    encode_bundle,
    hash_tile,
    tiles_of,
)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 1234067), "tile/0/x001/x234/067"),
        (Tile(None, 999, 1), "tile/entries/999.p/1"),
        (Tile(None, 1000), "tile/entries/x001/000"),
        (Tile(63, 5, 255), "tile/63/005.p/255"),
    ],
)
def test_a_tile_has_one_path(tile: Tile, path: str):
    assert tile.path == path
    assert Tile.parse(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/1234067",
        "tile/0/x000/000",
        "tile/0/x001/234/067",
        "tile/0/001/x234",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/000\n",
        "tile/entries/../../etc",
        "tile/0/x001/x234/067.p/1/2",
        "tile/\u0660/000",
        "checkpoint",
    ],
)
def test_what_is_not_the_path_of_a_tile_is_refused(path: str):
    with pytest.raises(InputError):
        Tile.parse(path)


def test_a_log_of_70000_entries_has_the_tiles_that_the_standard_counts():
    tiles = list(tiles_of(70_000))
    level = {None: 274, 0: 274, 1: 2, 2: 1}
    assert {key: sum(t.level == key for t in tiles) for key in level} == level
    partial = {tile.path for tile in tiles if tile.width < 256}
    assert partial == {
        "tile/entries/273.p/112",
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    }
    assert [t.path for t in tiles_of(256)] == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert list(tiles_of(0)) == []
    with pytest.raises(InputError):
        list(tiles_of(1, since=2))


def test_a_bundle_gives_back_its_entries():
    entries = [b"", b"a", b"x" * 65_535, *([b"b"] * 253)]
    assert decode_bundle(encode_bundle(entries), 256) == entries
    assert encode_bundle([b"ab"]) == b"\x00\x02ab"


@pytest.mark.parametrize("entries", [[], [b"x"] * 257, [b"x" * 65_536]])
def test_what_does_not_fit_a_bundle_is_refused(entries: list[bytes]):
    with pytest.raises(InputError):
        encode_bundle(entries)


@pytest.mark.parametrize(
    ("data", "width"),
    [(b"", 1), (b"\x00", 1), (b"\x00\x02a", 1), (b"\x00\x01a\x00", 1), (b"\x00\x01a", 2)],
)
def test_a_bundle_that_ends_early_or_late_is_refused(data: bytes, width: int):
    with pytest.raises(ProofError):
        decode_bundle(data, width)


def test_hash_tiles_come_from_the_tree_and_from_nowhere_else():
    tree = Tree(leaf_hash(bytes([number])) for number in range(5))
    assert decode_hash_tile(hash_tile(tree, Tile(0, 0, 5)), 5) == [tree.leaf(n) for n in range(5)]
    for tile in (Tile(0, 0, 6), Tile(0, 1, 1), Tile(1, 0, 1), Tile(63, 0), Tile(None, 0, 5)):
        with pytest.raises(InputError):
            hash_tile(tree, tile)
    with pytest.raises(ProofError):
        decode_hash_tile(b"x" * 31, 1)


def test_the_tree_refuses_what_it_does_not_hold():
    tree = Tree([leaf_hash(b"")])
    with pytest.raises(InputError):
        tree.append(b"short")
    for ask in (lambda: tree.root(2), lambda: tree.inclusion(1), lambda: tree.consistency(0)):
        with pytest.raises(InputError):
            ask()
