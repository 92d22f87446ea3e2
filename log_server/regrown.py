"""The tree grown again from its leaves, each tile of it compared with what a source has.

Where a tile and what lies below it disagree, the signed root decides who is wrong: a tile that leads to it is
right, and then the fault is below. What is right, or cannot be told, is what the level above is derived from, so
that one wrong byte is one fault, at its own path.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from assay.tlog import merkle, tiles
from assay.tlog.checkpoint import Checkpoint
from assay.tlog.errors import LogError, UnavailableError
from assay.tlog.merkle import Hash, Node
from assay.tlog.tile_reader import TileReader, TileSource
from assay.tlog.tiles import TILE_WIDTH, Bundle, Tile

_Value = TypeVar("_Value")

_Row = list[Hash | None]
"""The hashes of a tile as they were derived; None where nothing below could be read."""


def attempt(read: Callable[[], _Value]) -> _Value | LogError:
    """What is read, or why it is no good.

    Raises:
        UnavailableError: nobody can tell, because the other side does not answer.
    """
    try:
        return read()
    except UnavailableError as error:
        if error.code != "absent":
            raise
        return error
    except LogError as error:
        return error


def read_tile(source: TileSource, tile: Tile) -> bytes:
    """A tile's bytes, as many as it must have.

    Raises:
        MalformedError: of another length.
        UnavailableError: from the source.
    """
    (content,) = source.read_tiles([tile])
    tiles.parse_tile(content, width=tile.width)
    return content


class Regrown:
    """The tree under a checkpoint; bundle after bundle is added, and nothing but the right edge is kept.

    Args:
        source: where tiles are read.
        checkpoint: verified.
        fault: told a path and what is wrong there.
    """

    def __init__(
        self, source: TileSource, checkpoint: Checkpoint, *, fault: Callable[[str, str], None]
    ) -> None:
        self._source = source
        self._checkpoint = checkpoint
        self._fault = fault
        self._edges: list[_Row] = []
        self.tiles = 0

    def add(self, bundle: Bundle, hashes: Sequence[Hash] | None, stored: bytes | LogError) -> None:
        """Add the next bundle: its entries' hashes, None if it could not be read; and its tile."""
        derived: _Row = [None] * bundle.width if hashes is None else list(hashes)
        row = self._settle(bundle.tile, derived, stored)
        self._grow(bundle.tile, row)

    def finish(self) -> None:
        """Compare the right edge above the leaves, and the root."""
        size = self._checkpoint.size
        for level in range(1, len(self._edges)):
            if self._edges[level]:
                tile = Tile(level, size >> 8 * (level + 1), len(self._edges[level]))
                self._edges[level] = self._settle(tile, self._edges[level], self._read(tile))
        root = self._root()
        if root is not None and root != self._checkpoint.root:
            self._fault("checkpoint", f"the entries' root is {root.hex()}, not the signed one")

    def _grow(self, tile: Tile, row: _Row) -> None:
        """A tile of a level is settled: keep it as the edge, or pass its root up if it is full."""
        while len(self._edges) <= tile.level + 1:
            self._edges.append([])
        if tile.width < TILE_WIDTH:
            self._edges[tile.level] = row
            return
        above = self._edges[tile.level + 1]
        above.append(_folded(row))
        if len(above) == TILE_WIDTH:
            parent = Tile(tile.level + 1, tile.index // TILE_WIDTH)
            self._edges[parent.level] = []
            self._grow(parent, self._settle(parent, above, self._read(parent)))

    def _root(self) -> Hash | None:
        """The root: the edges folded together, lowest and rightmost first; None if some of it is not known."""
        root: Hash | None = None
        for edge in self._edges:
            # What came from below is the right-most subtree of this level, not yet a whole node of it.
            row = edge if root is None else [*edge, root]
            if None in edge:
                return None
            if row:
                root = _folded(row)
        return merkle.EMPTY_ROOT if root is None else root

    def _read(self, tile: Tile) -> bytes | LogError:
        return attempt(lambda: read_tile(self._source, tile))

    def _settle(self, tile: Tile, derived: _Row, stored: bytes | LogError) -> _Row:
        """What a tile holds, of what was derived and what is stored; and who is at fault if they differ."""
        self.tiles += 1
        if isinstance(stored, LogError):
            self._fault(tile.path, str(stored))
            return derived
        kept = tiles.parse_tile(stored, width=tile.width)
        wrong = [at for at, hash_ in enumerate(derived) if hash_ not in (None, kept[at])]
        if not wrong:
            return list(kept)
        if self._is_authentic(tile, kept, wrong[0]):
            self._blame_below(tile, wrong)
            return list(kept)
        more = f", nor are {len(wrong) - 1} more" if len(wrong) > 1 else ""
        self._fault(tile.path, f"hash {wrong[0]} is not that of what lies below it{more}")
        return [kept[at] if hash_ is None else hash_ for at, hash_ in enumerate(derived)]

    def _is_authentic(self, tile: Tile, kept: Sequence[Hash], at: int) -> bool:
        """Whether the source's tile leads to the signed root."""
        reader = TileReader(self._source, size=self._checkpoint.size, root=self._checkpoint.root)
        node = Node(8 * tile.level, tile.index * TILE_WIDTH + at)
        hashes = attempt(lambda: reader.read_hashes([node]))
        return hashes == [kept[at]]

    def _blame_below(self, tile: Tile, wrong: Sequence[int]) -> None:
        if tile.level > 0:
            for at in wrong:
                child = Tile(tile.level - 1, tile.index * TILE_WIDTH + at)
                self._fault(
                    child.path, f"what lies below it is wrong too: hash {at} of {tile.path} is another"
                )
            return
        first = tile.index * TILE_WIDTH
        more = f", nor are {len(wrong) - 1} more" if len(wrong) > 1 else ""
        path = Bundle(tile.index, tile.width).path
        self._fault(path, f"entry {first + wrong[0]} is not the one that was logged{more}")


def _folded(row: _Row) -> Hash | None:
    known = [each for each in row if each is not None]
    return merkle.root_of(known) if len(known) == len(row) else None
