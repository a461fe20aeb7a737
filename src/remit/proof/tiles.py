"""The log as static files: hash tiles and entry bundles (C2SP tlog-tiles).

A tile holds 256 hashes, or entries; the rightmost tile of each level may be partial. A hash at
level L is the root of 256^L leaves. Nothing here touches a file: these are names and bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from remit.model.errors import InputError, ProofError
from remit.proof.encoding import MAX_RECORD_BYTES
from remit.proof.merkle import HASH_BYTES, Tree

TILE_WIDTH = 256
TILE_HEIGHT = 8
MAX_LEVEL = 63
CHECKPOINT_PATH = "checkpoint"

_LENGTH_BYTES = 2
_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?\Z",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Tile:
    """The name of one tile. ``level`` is None for an entry bundle; ``width`` is 1 to 256."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise InputError(f"a tile's level is 0 to {MAX_LEVEL}, not {self.level}")
        if self.index < 0 or not 0 < self.width <= TILE_WIDTH:
            raise InputError("a tile has an index from 0 and a width of 1 to 256")

    @property
    def path(self) -> str:
        """The path below the log's prefix, such as ``tile/0/x001/x234/067.p/112``."""
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        suffix = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{'entries' if self.level is None else self.level}/{number}{suffix}"

    @property
    def first(self) -> int:
        """The first hash (or entry) it holds, counted along its level."""
        return self.index * TILE_WIDTH

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read a path back.

        Raises:
            InputError: it is not the one path of a tile.
        """
        match = _PATH.match(path)
        if match is None:
            raise InputError(f"`{path}` is not the path of a tile")
        level = None if match["level"] == "entries" else int(match["level"])
        index = int(match["index"].replace("x", "").replace("/", ""))
        tile = cls(level, index, int(match["width"] or TILE_WIDTH))
        if tile.path != path:
            raise InputError(f"`{path}` is not the path of a tile: `{tile.path}` would be")
        return tile


def tiles_of(size: int, *, since: int = 0) -> Iterator[Tile]:
    """Name the hash tiles and bundles that a log of ``size`` entries has and one of ``since`` not.

    Bundles come first, then level 0 and up, so that whoever writes them in this order never has a
    hash before its entry. Partial tiles of ``since`` that have since become full may be deleted.

    Raises:
        InputError: not 0 <= since <= size.
    """
    if not 0 <= since <= size:
        raise InputError(f"a log does not go from {since} to {size} entries")
    yield from _along(None, since, size)
    level, old, new = 0, since, size
    while new and level <= MAX_LEVEL:
        yield from _along(level, old, new)
        level, old, new = level + 1, old // TILE_WIDTH, new // TILE_WIDTH


def hash_tile(tree: Tree, tile: Tile) -> bytes:
    """Return a hash tile's bytes, cut from the tree.

    Raises:
        InputError: it is an entry bundle, or the tree does not hold it all.
    """
    if tile.level is None:
        raise InputError(f"`{tile.path}` holds entries, not hashes")
    return tree.nodes(tile.level * TILE_HEIGHT, tile.first, tile.width)


def decode_hash_tile(data: bytes, width: int) -> list[bytes]:
    """Return a hash tile's hashes.

    Raises:
        ProofError: it does not hold exactly ``width`` hashes.
    """
    if len(data) != width * HASH_BYTES:
        raise ProofError(f"a tile of width {width} is {width * HASH_BYTES} bytes, not {len(data)}")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return an entry bundle: each entry after its length, a big-endian uint16.

    Raises:
        InputError: there are not 1 to 256 entries, or one is longer than 65,535 bytes.
    """
    if not 0 < len(entries) <= TILE_WIDTH:
        raise InputError(f"a bundle holds 1 to {TILE_WIDTH} entries, not {len(entries)}")
    for entry in entries:
        if len(entry) > MAX_RECORD_BYTES:
            raise InputError(f"an entry is at most {MAX_RECORD_BYTES} bytes, not {len(entry)}")
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES) + entry for entry in entries)


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Return an entry bundle's entries.

    Raises:
        ProofError: it does not hold exactly ``width`` entries and nothing else.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start])
        if start > len(data) or at > len(data):
            raise ProofError("the bundle ends inside an entry")
        entries.append(data[start:at])
    if len(entries) != width:
        raise ProofError(f"the bundle holds {len(entries)} entries, not {width}")
    return entries


def _along(level: int | None, old: int, new: int) -> Iterator[Tile]:
    """Name the tiles of one level that differ between two counts of hashes."""
    if old == new:
        return
    for index in range(old // TILE_WIDTH, new // TILE_WIDTH):
        yield Tile(level, index)
    if new % TILE_WIDTH:
        yield Tile(level, new // TILE_WIDTH, new % TILE_WIDTH)
