r"""Coordinates, paths and contents of tiles and entry bundles (c2sp.org/tlog-tiles).

A tile of level L and index N holds up to 256 hashes of 32 bytes, concatenated. Its i-th hash is that of
``Node(8 * L, 256 * N + i)``: from level 1 up, each is the root of one *full* tile of the level below. A tree of
``size`` leaves has ``size >> 8 * L`` hashes at level L, so at most the last tile of a level is partial; the
nodes between two tile levels are computed, never stored. An entry bundle holds the entries whose leaf hashes
are the level-0 tile of the same index and width, each as its length (u16, big-endian) and its bytes.

::

    tile/<L>/<N>[.p/<W>]        N in groups of three digits, all but the last marked x:
    tile/entries/<N>[.p/<W>]    1234067 is x001/x234/067

W is the width of a partial tile, 1 to 255; a full one has no suffix. Every path has one spelling.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from assay.tlog.errors import MalformedError
from assay.tlog.merkle import HASH_SIZE, Hash, Node, root_of
from assay.tlog.strict import MAX_DECIMAL, shown

TILE_HEIGHT = 8
"""Levels of the tree that one tile spans."""

TILE_WIDTH = 1 << TILE_HEIGHT
"""Hashes in a full tile, entries in a full bundle."""

MAX_TILE_LEVEL = 63
"""The highest level that a path can name; a tree below 2**63 leaves ends at level 7."""

MAX_ENTRY_SIZE = 65535
"""Bytes of the largest entry: its length is a u16."""

_PATH = re.compile(
    r"tile/(?P<level>[0-9]{1,2}|entries)/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?"
)
_LENGTH_SIZE = 2


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """The name of a tile: level 0..63, 0-based index in its level, 1..256 hashes."""

    level: int
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        assert 0 <= self.level <= MAX_TILE_LEVEL
        assert 0 <= self.index <= MAX_DECIMAL
        assert 1 <= self.width <= TILE_WIDTH

    @property
    def path(self) -> str:
        """The tile's path below the log's prefix, as ``tile/0/x001/234/067.p/5``."""
        return f"tile/{self.level}/{_format_place(self.index, self.width)}"


@dataclass(frozen=True, slots=True, order=True)
class Bundle:
    """The name of an entry bundle: 0-based index, 1..256 entries."""

    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        assert 0 <= self.index <= MAX_DECIMAL
        assert 1 <= self.width <= TILE_WIDTH

    @property
    def path(self) -> str:
        """The bundle's path below the log's prefix, as ``tile/entries/000.p/3``."""
        return f"tile/entries/{_format_place(self.index, self.width)}"

    @property
    def tile(self) -> Tile:
        """The level-0 tile that holds the leaf hashes of this bundle's entries."""
        return Tile(0, self.index, self.width)


# --- paths -----------------------------------------------------------------------------------------


def parse_tile_path(path: str) -> Tile:
    """Parse a tile's path, from ``tile/`` on, in its only spelling.

    Raises:
        MalformedError: anything else, entry bundles included.
    """
    level, index, width = _parse_place(path)
    if level == "entries" or int(level) > MAX_TILE_LEVEL:
        raise MalformedError(f"{shown(path)} is not the path of a tile")
    tile = Tile(int(level), index, width)
    _check_spelling(path, tile.path)
    return tile


def parse_bundle_path(path: str) -> Bundle:
    """Parse an entry bundle's path, from ``tile/entries/`` on, in its only spelling.

    Raises:
        MalformedError: anything else, tiles included.
    """
    level, index, width = _parse_place(path)
    if level != "entries":
        raise MalformedError(f"{shown(path)} is not the path of an entry bundle")
    bundle = Bundle(index, width)
    _check_spelling(path, bundle.path)
    return bundle


def _format_place(index: int, width: int) -> str:
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.append(f"x{index % 1000:03d}")
    suffix = f".p/{width}" if width < TILE_WIDTH else ""
    return "/".join(reversed(groups)) + suffix


def _parse_place(path: str) -> tuple[str, int, int]:
    match = _PATH.fullmatch(path)
    if match is None:
        raise MalformedError(f"{shown(path)} is not the path of a tile or entry bundle")
    index = int(match["index"].replace("x", "").replace("/", ""))
    width = TILE_WIDTH if match["width"] is None else int(match["width"])
    if index > MAX_DECIMAL or not 1 <= width <= TILE_WIDTH:
        raise MalformedError(f"{shown(path)}: index or width out of range")
    return match["level"], index, width


def _check_spelling(path: str, canonical: str) -> None:
    """Leading zeros and groups, and a full tile called partial, are spelled otherwise than here."""
    if path != canonical:
        raise MalformedError(f"{shown(path)} is not the canonical {canonical}")


# --- which tiles a tree has ------------------------------------------------------------------------


def partial_width(level: int, size: int) -> int:
    """Hashes in the partial tile of this level in a tree of ``size`` leaves; 0 if it has none."""
    return (size >> TILE_HEIGHT * level) % TILE_WIDTH


def partial_tiles(size: int) -> list[Tile]:
    """The partial tiles of a tree, lowest level first; together they hold its right edge.

    The highest level always ends in a partial tile, so only the empty tree has none.
    """
    levels = range((size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT)
    return [
        Tile(level, size >> TILE_HEIGHT * (level + 1), width)
        for level in levels
        if (width := partial_width(level, size))
    ]


def tile_at(level: int, index: int, size: int) -> Tile:
    """The tile at these coordinates as a tree of ``size`` leaves has it, which must reach that far."""
    return Tile(level, index, min(TILE_WIDTH, (size >> TILE_HEIGHT * level) - index * TILE_WIDTH))


def bundle_at(index: int, size: int) -> Bundle:
    """The entry bundle of this index as a log of ``size`` entries has it."""
    return Bundle(index, tile_at(0, index, size).width)


def tiles_of_size(size: int) -> Iterator[Tile]:
    """Every tile of a tree, full and partial, lowest level first, left to right."""
    return _grown_tiles(0, size)


def new_tiles(old_size: int, new_size: int) -> list[Tile]:
    """The tiles, full and partial, that the tree of ``new_size`` has and that of ``old_size`` has not."""
    return list(_grown_tiles(old_size, new_size))


def bundles_of_size(size: int) -> Iterator[Bundle]:
    """Every entry bundle of a log, left to right; at most the last is partial."""
    return _grown_bundles(0, size)


def new_bundles(old_size: int, new_size: int) -> list[Bundle]:
    """The bundles, full and partial, that a log of ``new_size`` has and one of ``old_size`` has not."""
    return list(_grown_bundles(old_size, new_size))


def _grown_tiles(old_size: int, new_size: int) -> Iterator[Tile]:
    level = 0
    while old_size < new_size:
        for index in range(old_size // TILE_WIDTH, (new_size - 1) // TILE_WIDTH + 1):
            yield Tile(level, index, min(TILE_WIDTH, new_size - index * TILE_WIDTH))
        # What is left are the hashes of the level above: as many as there are full tiles here.
        old_size, new_size, level = old_size // TILE_WIDTH, new_size // TILE_WIDTH, level + 1


def _grown_bundles(old_size: int, new_size: int) -> Iterator[Bundle]:
    if old_size < new_size:
        for index in range(old_size // TILE_WIDTH, (new_size - 1) // TILE_WIDTH + 1):
            yield bundle_at(index, new_size)


# --- nodes in tiles --------------------------------------------------------------------------------


def tile_for_node(node: Node, size: int) -> Tile:
    """The tile of a tree of ``size`` leaves, which must cover the node, that it is read or computed from."""
    assert node.index + 1 << node.level <= size
    level, height = divmod(node.level, TILE_HEIGHT)
    return tile_at(level, (node.index << height) // TILE_WIDTH, size)


def hash_in_tile(data: bytes, tile: Tile, node: Node) -> Hash:
    """The hash of a node, read or computed from the contents of the tile that covers it.

    Raises:
        MalformedError: the contents have not the length that the tile's width demands.
    """
    level, height = divmod(node.level, TILE_HEIGHT)
    first = (node.index << height) - tile.index * TILE_WIDTH
    end = first + (1 << height)
    assert level == tile.level
    assert 0 <= first < end <= tile.width
    _check_tile_length(data, tile.width)
    return root_of(_hashes(data[first * HASH_SIZE : end * HASH_SIZE]))


def format_tile(hashes: Sequence[Hash]) -> bytes:
    """The contents of a tile: its hashes, concatenated."""
    return b"".join(hashes)


def parse_tile(data: bytes, *, width: int) -> list[Hash]:
    """The hashes of a tile.

    Raises:
        MalformedError: not exactly ``width`` hashes.
    """
    _check_tile_length(data, width)
    return _hashes(data)


def _check_tile_length(data: bytes, width: int) -> None:
    if len(data) != width * HASH_SIZE:
        raise MalformedError(f"a tile of {width} hashes has {width * HASH_SIZE} bytes, not {len(data)}")


def _hashes(data: bytes) -> list[Hash]:
    return [Hash(data[at : at + HASH_SIZE]) for at in range(0, len(data), HASH_SIZE)]


# --- entries in bundles ----------------------------------------------------------------------------


def format_bundle(entries: Sequence[bytes]) -> bytes:
    """The contents of a bundle: before each entry its length, u16 big-endian.

    Raises:
        MalformedError: an entry above MAX_ENTRY_SIZE.
    """
    for entry in entries:
        if len(entry) > MAX_ENTRY_SIZE:
            raise MalformedError(f"an entry has at most {MAX_ENTRY_SIZE} bytes, not {len(entry)}")
    return b"".join(len(entry).to_bytes(_LENGTH_SIZE, "big") + entry for entry in entries)


def parse_bundle(data: bytes, *, width: int) -> list[bytes]:
    """The entries of a bundle. Nothing says yet that the log has them.

    Raises:
        MalformedError: not exactly ``width`` entries, or bytes missing or left over.
    """
    entries: list[bytes] = []
    at = 0
    for _ in range(width):
        start = at + _LENGTH_SIZE
        at = start + int.from_bytes(data[start - _LENGTH_SIZE : start], "big")
        if at > len(data):  # `start` is not above `at`
            raise MalformedError(f"entry bundle: it ends inside entry {len(entries)} of {width}")
        entries.append(data[start:at])
    if at != len(data):
        raise MalformedError(f"entry bundle: {len(data) - at} bytes after {width} entries")
    return entries
