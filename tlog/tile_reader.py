"""Reading a log through its tiles, believing nothing that does not hash to a known root.

Whoever serves tiles may serve anything. A :class:`TileReader` is told size and root by a checkpoint that its
caller trusts, and shows a hash only after the chain from it to the root is closed:

1. The partial tiles of all levels hold exactly the right edge of the tree, every hash of them. Folded
   together they must give the root.
2. Any other tile is full, and its own root is one hash of the tile above it, which is either partial or has
   itself a tile above.
3. An entry is shown after every entry of its bundle matched its leaf hash in the level-0 tile.

So all tiles above those asked for are read along, in one call of the source, and one wrong byte in any of
them refuses them all.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from assay.tlog.errors import UntrustedError
from assay.tlog.merkle import EMPTY_ROOT, Hash, HashReader, Node, leaf_hash, root_of
from assay.tlog.proof import tree_root
from assay.tlog.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    Bundle,
    Tile,
    bundle_at,
    hash_in_tile,
    parse_bundle,
    parse_tile,
    partial_tiles,
    tile_at,
    tile_for_node,
)

MAX_CACHED_TILES = 1024
"""Verified tiles that a reader keeps, 8 KiB each; the least recently used goes first."""

BUNDLES_AT_ONCE = 64
"""Bundles whose level-0 tiles are read in one call."""


class TileSource(Protocol):
    """Where the bytes of tiles and bundles come from. It verifies nothing.

    Both methods raise UnavailableError for what cannot be read. Where only the full tile or bundle is left of
    a partial one, the source reads that and cuts it to the width asked for.
    """

    def read_tiles(self, tiles: Sequence[Tile]) -> Sequence[bytes]:
        """The contents of each of ``tiles``, in their order."""
        ...

    def read_bundle(self, bundle: Bundle) -> bytes:
        """The contents of ``bundle``, as stored when not compressed."""
        ...


class TileReader(HashReader):
    """The hashes and entries of one tree, ``(size, root)``, from an untrusted source.

    It holds no lock: use one reader in one thread.
    """

    def __init__(self, source: TileSource, *, size: int, root: Hash) -> None:
        """Take ``size`` and ``root`` from one trusted checkpoint; nothing is read yet.

        Raises:
            UntrustedError: size 0 with another root than that of the empty tree (code ``tile``).
        """
        if size == 0 and root != EMPTY_ROOT:
            raise UntrustedError("a tree without leaves has another root", code="tile")
        self.size = size
        self.root = root
        self._source = source
        self._verified: dict[Tile, bytes] = {}  # least recently used first

    def read_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        """The hashes of ``nodes``, in their order, all of them covered by the tree.

        Raises:
            MalformedError: a tile of the wrong length.
            UntrustedError: a tile that does not lead to the root (code ``tile``).
            UnavailableError: from the source.
        """
        homes = [tile_for_node(node, self.size) for node in nodes]
        tiles = self._read_verified(homes)
        return [hash_in_tile(tiles[tile], tile, node) for tile, node in zip(homes, nodes, strict=True)]

    def read_entries(self, start: int, end: int) -> Iterator[bytes]:
        """The entries ``[start, end)``, ``end <= size``; each bundle is verified before its first one.

        Raises:
            MalformedError: a tile of the wrong length, a bundle that is none.
            UntrustedError: a tile (code ``tile``) or an entry (code ``entry``) is not the log's.
            UnavailableError: from the source.
        """
        assert 0 <= start <= end <= self.size
        return self._entries(start, end) if start < end else iter(())

    def _entries(self, start: int, end: int) -> Iterator[bytes]:
        last = -(-end // TILE_WIDTH)
        for first in range(start // TILE_WIDTH, last, BUNDLES_AT_ONCE):
            indexes = range(first, min(first + BUNDLES_AT_ONCE, last))
            bundles = [bundle_at(index, self.size) for index in indexes]
            tiles = self._read_verified([bundle.tile for bundle in bundles])
            for bundle in bundles:
                entries = self._read_bundle(bundle, tiles[bundle.tile])
                offset = bundle.index * TILE_WIDTH
                yield from entries[max(0, start - offset) : end - offset]

    def _read_bundle(self, bundle: Bundle, tile_data: bytes) -> list[bytes]:
        entries = parse_bundle(self._source.read_bundle(bundle), width=bundle.width)
        expected = parse_tile(tile_data, width=bundle.width)
        for place, (entry, leaf) in enumerate(zip(entries, expected, strict=True)):
            if leaf_hash(entry) != leaf:
                raise UntrustedError(f"{bundle.path}: entry {place} is not the log's", code="entry")
        return entries

    def _read_verified(self, wanted: Sequence[Tile]) -> dict[Tile, bytes]:
        """The contents of at least the tiles wanted; every one is verified, or none is kept."""
        known = {tile: self._verified[tile] for tile in wanted if tile in self._verified}
        if len(known) == len(set(wanted)):
            self._remember(known)
            return known
        needed = self._with_tiles_above(wanted)
        known = {tile: self._verified[tile] for tile in needed if tile in self._verified}
        missing = [tile for tile in needed if tile not in known]
        read = dict(zip(missing, self._source_tiles(missing), strict=True))
        tiles = known | read
        self._check_partial_tiles(tiles, read)
        self._check_full_tiles(tiles, read)
        self._remember(tiles)
        return tiles

    def _source_tiles(self, tiles: list[Tile]) -> Sequence[bytes]:
        contents = self._source.read_tiles(tiles)
        if len(contents) != len(tiles):
            raise AssertionError(f"the tile source returned {len(contents)} of {len(tiles)} tiles")
        return contents

    def _with_tiles_above(self, wanted: Sequence[Tile]) -> list[Tile]:
        needed = dict.fromkeys(partial_tiles(self.size))
        for tile in wanted:
            above = tile
            while above not in needed:  # ends at a partial tile: those are all in it already
                needed[above] = None
                above = self._tile_above(above)
        return list(needed)

    def _tile_above(self, tile: Tile) -> Tile:
        return tile_at(tile.level + 1, tile.index // TILE_WIDTH, self.size)

    def _check_partial_tiles(self, tiles: Mapping[Tile, bytes], read: Mapping[Tile, bytes]) -> None:
        edge = partial_tiles(self.size)
        if not any(tile in read for tile in edge):
            return
        if tree_root(self.size, _Unverified(tiles, self.size)) != self.root:
            raise UntrustedError(f"the tiles do not lead to the root of {self.size} leaves", code="tile")

    def _check_full_tiles(self, tiles: Mapping[Tile, bytes], read: Mapping[Tile, bytes]) -> None:
        for tile, data in read.items():
            if tile.width < TILE_WIDTH:
                continue
            above = self._tile_above(tile)
            node = Node((tile.level + 1) * TILE_HEIGHT, tile.index)
            if root_of(parse_tile(data, width=tile.width)) != hash_in_tile(tiles[above], above, node):
                raise UntrustedError(f"{tile.path} does not lead to the root", code="tile")

    def _remember(self, tiles: dict[Tile, bytes]) -> None:
        for tile, data in reversed(tiles.items()):  # partial tiles stand first: they are kept longest
            self._verified.pop(tile, None)
            self._verified[tile] = data
        while len(self._verified) > MAX_CACHED_TILES:
            del self._verified[next(iter(self._verified))]


class _Unverified(HashReader):
    """The nodes of tiles just read, to compute the root that they claim."""

    def __init__(self, tiles: Mapping[Tile, bytes], size: int) -> None:
        self._tiles = tiles
        self._size = size

    def read_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        homes = [tile_for_node(node, self._size) for node in nodes]
        return [hash_in_tile(self._tiles[tile], tile, node) for tile, node in zip(homes, nodes, strict=True)]
