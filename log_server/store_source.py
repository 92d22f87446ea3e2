"""A log's own database, read as its tiles are read, and checked where tiles say nothing."""

from collections.abc import Sequence

from assay.attest.index import Indexed
from assay.log_server.fsck import Findings
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.store import Store, root_at
from assay.tlog import tiles
from assay.tlog.checkpoint import verify_checkpoint
from assay.tlog.errors import LogError, UnavailableError
from assay.tlog.keys import VerifierKey
from assay.tlog.tiles import TILE_WIDTH, Bundle, Tile

_PAGE = 500


class StoreSource:
    """Tiles and bundles from a database, up to its newest signed checkpoint."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read_checkpoint(self) -> bytes:
        """The newest checkpoint that the log signed, published or not."""
        return self._store.latest().note

    def read_tiles(self, wanted: Sequence[Tile]) -> list[bytes]:
        """The tiles' bytes."""
        return [self._tile(tile) for tile in wanted]

    def read_bundle(self, bundle: Bundle) -> bytes:
        """An entry bundle's bytes."""
        start = bundle.index * TILE_WIDTH
        entries = self._store.entries(start, start + bundle.width)
        if len(entries) != bundle.width:
            raise UnavailableError(f"{bundle.path}: {len(entries)} of {bundle.width} entries", code="absent")
        return tiles.format_bundle(entries)

    def _tile(self, tile: Tile) -> bytes:
        content = self._store.tile(tile.level, tile.index)
        if content is None:
            raise UnavailableError(f"{tile.path}: not in the database", code="absent")
        return content[: tile.width * 32]


class IndexCheck:
    """Checks that the database finds each entry by what the entry's bytes say, and by nothing else."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._terms = 0

    def check_entry(self, index: int, leaf: bytes, indexed: Indexed | None) -> str | None:
        """What is wrong with an entry's identity and terms, or None."""
        if indexed is None:
            return None
        self._terms += len(indexed.terms)
        if self._store.is_indexed(index, identity=indexed.identity, terms=indexed.terms):
            return None
        return "the database has it under another identity, or lacks an index term"

    def finish(self, findings: Findings) -> None:
        """Check that there are no terms beyond those of the entries."""
        kept = self._store.term_count()
        if kept != self._terms and not findings.unknown:
            findings.fault("index", f"{kept} terms are kept, but the entries have {self._terms}")


def check_checkpoints(store: Store, findings: Findings, *, log_keys: Sequence[VerifierKey]) -> None:
    """Check every checkpoint that the database has: signed by the log, and of this very tree."""
    before = None
    while page := store.checkpoints(before=before, limit=_PAGE):
        for stored in page:
            _check_checkpoint(store, stored, findings, log_keys)
        before = page[-1].size


def _check_checkpoint(
    store: Store, stored: StoredCheckpoint, findings: Findings, log_keys: Sequence[VerifierKey]
) -> None:
    path = f"checkpoint of size {stored.size}"
    try:
        signed = verify_checkpoint(stored.note, log_keys=log_keys)
    except LogError as error:
        findings.fault(path, str(error))
        return
    if (signed.size, signed.root) != (stored.size, stored.root):
        findings.fault(path, "the signed size or root is not the one it is kept under")
    elif signed.size > findings.checkpoint.size or root_at(store, signed.size) != signed.root:
        findings.fault(path, "the tree of that size has another root")
