"""Node hashes from stored tiles: what proofs and roots are computed from.

A tile is folded once: its hashes, the hashes of their pairs, and so on up. One reader serves all proofs of a
batch from the same few tiles.
"""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence

from assay.tlog import merkle
from assay.tlog.errors import InconsistentError
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
        self._tiles = dict(known or {})
        self._folded: dict[Place, tuple[list[Hash], ...]] = {}
        self._filling = threading.Lock()

    def read_from(self, read_tile: ReadTile) -> None:
        """Take from there what is still missing: a transaction's reader outlives the transaction."""
        self._read_tile = read_tile

    def read_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        """The nodes' hashes; a node inside a tile is folded from the tile's hashes."""
        return [self._read(node) for node in nodes]

    def _read(self, node: Node) -> Hash:
        level, height = divmod(node.level, 8)
        index, offset = divmod(node.index, TILE_WIDTH >> height)
        rows = self._folded.get((level, index)) or self._fill((level, index))
        if offset >= len(rows[height]):
            raise InconsistentError(
                f"the stored tiles do not hold node {node}: the database is damaged; 'assay log fsck' tells more",
                evidence={},
                code="tiles",
            )
        return rows[height][offset]

    def _fill(self, place: Place) -> tuple[list[Hash], ...]:
        """Read and fold a tile; of many threads that miss the same one, one does the work."""
        with self._filling:
            if place not in self._folded:
                content = self._tiles.pop(place, None) or self._read_tile(*place) or b""
                self._folded[place] = _fold(content)
            return self._folded[place]


@functools.lru_cache(maxsize=128)
def _fold(content: bytes) -> tuple[list[Hash], ...]:
    """A tile's complete nodes, 0 to 7 levels above its own hashes.

    The last tiles are remembered by their content: every proof needs the few above the bottom row.
    """
    rows = [[Hash(content[at : at + 32]) for at in range(0, len(content), 32)]]
    for _ in range(7):
        below = rows[-1]
        rows.append([merkle.node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    return tuple(rows)
