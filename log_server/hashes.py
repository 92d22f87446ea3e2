"""Node hashes from stored tiles: what proofs and roots are computed from.

A tile is folded at most once: its hashes, the hashes of their pairs, and so on up. One reader serves all
proofs of a batch from the same few tiles.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

from assay.tlog import merkle
from assay.tlog.merkle import Hash, Node
from assay.tlog.tiles import TILE_WIDTH

Place = tuple[int, int]
"""A tile's level and index."""


ReadTile = Callable[[int, int], bytes | None]
"""Gives the hashes that a tile has so far, by its level and index; None if it has none."""


class TileHashes:
    """Reads node hashes (a :class:`~assay.tlog.merkle.HashReader`); threads may share one.

    Args:
        read_tile: where tiles come from.
        known: tiles that need not be read.
    """

    def __init__(self, read_tile: ReadTile, *, known: Mapping[Place, bytes] | None = None) -> None:
        self._read_tile = read_tile
        self._rows = {(*place, 0): _split(content) for place, content in (known or {}).items()}
        self._filling = threading.RLock()

    def read_from(self, read_tile: ReadTile) -> None:
        """Take from there what is still missing: a transaction's reader outlives the transaction."""
        self._read_tile = read_tile

    def read_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        """The nodes' hashes; a node inside a tile is folded from the tile's hashes."""
        return [self._read(node) for node in nodes]

    def _read(self, node: Node) -> Hash:
        level, height = divmod(node.level, 8)
        index, offset = divmod(node.index, TILE_WIDTH >> height)
        row = self._rows.get((level, index, height)) or self._fill(level, index, height)
        if offset >= len(row):
            raise AssertionError(f"the stored tiles do not hold node {node}")
        return row[offset]

    def _fill(self, level: int, index: int, height: int) -> list[Hash]:
        """The complete nodes that many levels above a tile's own hashes; of many threads one does the work."""
        with self._filling:
            row = self._rows.get((level, index, height))
            if row is None:
                row = self._fold(level, index, height)
                self._rows[level, index, height] = row
            return row

    def _fold(self, level: int, index: int, height: int) -> list[Hash]:
        if height == 0:
            return _split(self._read_tile(level, index) or b"")
        below = self._fill(level, index, height - 1)
        return [merkle.node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]


def _split(content: bytes) -> list[Hash]:
    return [Hash(content[at : at + 32]) for at in range(0, len(content), 32)]
