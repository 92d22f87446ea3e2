"""``fsck``: everything that a log serves, derived again from its entries up.

Entries give leaf hashes, leaf hashes the bottom tiles, their roots the tiles above, and the last one the root
that the log signed. Every tile of the tree is read and compared; a fault does not end the check, so that one
run tells all of them. Nothing but the running right edge is kept in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from assay.attest.index import Indexed, index_leaf
from assay.tlog import merkle, tiles
from assay.tlog.checkpoint import Checkpoint, verify_checkpoint
from assay.tlog.errors import LogError
from assay.tlog.keys import VerifierKey
from assay.tlog.merkle import Hash
from assay.tlog.tile_reader import TileSource
from assay.tlog.tiles import TILE_WIDTH, Bundle, Tile

MAX_FAULTS = 100
_AHEAD = 8


class Source(TileSource, Protocol):
    """A log, or a copy of one."""

    def read_checkpoint(self) -> bytes:
        """Its newest checkpoint."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong where."""

    path: str
    what: str


@dataclass(slots=True)
class Findings:
    """What a check saw: how much there was, and what was wrong with it (at most 100 faults are kept)."""

    checkpoint: Checkpoint
    entries: int = 0
    tiles: int = 0
    unknown: int = 0
    faults: list[Fault] = field(default_factory=list)
    more_faults: int = 0

    def fault(self, path: str, what: str) -> None:
        """Note a fault."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(path, what))
        else:
            self.more_faults += 1


CheckEntry = Callable[[int, bytes, Indexed | None], str | None]
"""Looks at an entry beyond its hash: its index, its bytes, its index terms; returns what is wrong, or None."""


def check_log(
    source: Source,
    *,
    log_keys: Sequence[VerifierKey],
    progress: Callable[[int, int], None] | None = None,
    check_entry: CheckEntry | None = None,
) -> Findings:
    """Check a whole log.

    Args:
        source: where its tiles are read.
        log_keys: the log's, all of which must have signed the checkpoint.
        progress: told how many entries of how many have been checked.
        check_entry: what else to ask of each entry.

    Raises:
        MalformedError, UntrustedError: the checkpoint is not one of this log's; nothing else is looked at.
        UnavailableError: the source cannot be reached.
    """
    findings = Findings(verify_checkpoint(source.read_checkpoint(), log_keys=log_keys))
    tree = _Tree(source, findings)
    size = findings.checkpoint.size
    for bundle, entries in _bundles(source, size, findings):
        tree.add(bundle, _leaf_hashes(entries))
        for offset, leaf in enumerate(entries):
            _check_leaf(findings, bundle, offset, leaf, check_entry)
        if progress:
            progress(min((bundle.index + 1) * TILE_WIDTH, size), size)
    tree.finish()
    return findings


def _bundles(source: Source, size: int, findings: Findings) -> Iterator[tuple[Bundle, list[bytes]]]:
    """All bundles in order, read a few ahead; one that cannot be read has no entries."""

    def read(bundle: Bundle) -> tuple[Bundle, list[bytes] | LogError]:
        try:
            return bundle, tiles.parse_bundle(source.read_bundle(bundle), width=bundle.width)
        except LogError as error:
            return bundle, error

    with ThreadPoolExecutor(_AHEAD) as pool:
        for bundle, entries in _in_order(pool, read, tiles.bundles_of_size(size)):
            if isinstance(entries, LogError):
                findings.fault(bundle.path, str(entries))
                yield bundle, []
            else:
                yield bundle, entries


def _in_order(
    pool: ThreadPoolExecutor,
    read: Callable[[Bundle], tuple[Bundle, list[bytes] | LogError]],
    wanted: Iterator[Bundle],
) -> Iterator[tuple[Bundle, list[bytes] | LogError]]:
    ahead = []
    for bundle in wanted:
        ahead.append(pool.submit(read, bundle))
        if len(ahead) > _AHEAD:
            yield ahead.pop(0).result()
    for each in ahead:
        yield each.result()


def _leaf_hashes(entries: Sequence[bytes]) -> list[Hash]:
    return [merkle.leaf_hash(leaf) for leaf in entries]


def _check_leaf(
    findings: Findings, bundle: Bundle, offset: int, leaf: bytes, check_entry: CheckEntry | None
) -> None:
    index = bundle.index * TILE_WIDTH + offset
    findings.entries += 1
    try:
        indexed: Indexed | None = index_leaf(leaf)
    except LogError:
        findings.unknown += 1
        indexed = None
    wrong = check_entry(index, leaf, indexed) if check_entry else None
    if wrong:
        findings.fault(f"entry {index}", wrong)


class _Tree:
    """The tree as it grows from the leaves, each level compared with what the source has of it."""

    def __init__(self, source: Source, findings: Findings) -> None:
        self._source = source
        self._findings = findings
        self._size = findings.checkpoint.size
        self._edges: list[list[Hash]] = []

    def add(self, bundle: Bundle, hashes: list[Hash]) -> None:
        """The leaf hashes of the next bundle; none if it could not be read, then the tile must stand in."""
        stored = self._read(bundle.tile)
        if not hashes:
            hashes = [] if stored is None else _split(stored)
        elif stored is not None:
            self._compare(bundle.tile, hashes, stored)
        self._grow(0, bundle.index, hashes)

    def finish(self) -> None:
        """Compare the right edge above the leaves, and the root."""
        for level in range(1, len(self._edges)):
            edge = self._edges[level]
            if edge:
                tile = Tile(level, self._size >> 8 * (level + 1), len(edge))
                self._compare(tile, edge, self._read(tile))
        root = self._root()
        if root != self._findings.checkpoint.root:
            self._findings.fault("checkpoint", f"the entries' root is {root.hex()}, not the signed one")

    def _grow(self, level: int, index: int, hashes: list[Hash]) -> None:
        """A tile of a level is known: keep it as the edge, or pass its root up if it is full."""
        while len(self._edges) <= level + 1:
            self._edges.append([])
        if len(hashes) < TILE_WIDTH:
            self._edges[level] = hashes
            return
        self._edges[level] = []
        above = self._edges[level + 1]
        above.append(merkle.root_of(hashes))
        if len(above) == TILE_WIDTH:
            tile = Tile(level + 1, index // TILE_WIDTH, TILE_WIDTH)
            self._compare(tile, above, self._read(tile))
            self._grow(level + 1, tile.index, list(above))

    def _root(self) -> Hash:
        """The root: the edges folded together, lowest and rightmost first."""
        root: Hash | None = None
        for edge in self._edges:
            # What came from below is the right-most subtree of this level, not yet a whole node of it.
            row = edge if root is None else [*edge, root]
            if row:
                root = merkle.root_of(row)
        return merkle.EMPTY_ROOT if root is None else root

    def _read(self, tile: Tile) -> bytes | None:
        self._findings.tiles += 1
        try:
            (content,) = self._source.read_tiles([tile])
            tiles.parse_tile(content, width=tile.width)
        except LogError as error:
            self._findings.fault(tile.path, str(error))
            return None
        return content

    def _compare(self, tile: Tile, hashes: Sequence[Hash], stored: bytes | None) -> None:
        if stored is not None and stored != tiles.format_tile(hashes):
            known = _split(stored)
            at = next(
                (place for place, pair in enumerate(zip(hashes, known, strict=False)) if pair[0] != pair[1]),
                min(len(hashes), len(known)),
            )
            self._findings.fault(tile.path, f"hash {at} is not that of what lies below it")


def _split(content: bytes) -> list[Hash]:
    return [Hash(content[at : at + 32]) for at in range(0, len(content), 32)]
