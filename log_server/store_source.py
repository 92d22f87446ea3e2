"""A log's own database, read as its tiles are read, and checked where tiles say nothing."""

from collections.abc import Iterator, Sequence

from assay.attest.index import Indexed
from assay.log_server.fsck import Findings
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.store import Store, root_at
from assay.tlog import merkle, tiles
from assay.tlog.checkpoint import verify_checkpoint
from assay.tlog.errors import InconsistentError, LogError, UnavailableError
from assay.tlog.keys import VerifierKey
from assay.tlog.merkle import Hash
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

    def check(self, start: int, entries: Sequence[tuple[bytes, Indexed | None]]) -> Iterator[tuple[int, str]]:
        """What is wrong with the hashes, identities and terms of consecutive entries."""
        names = self._store.names(start, start + len(entries))
        wanted = {
            (name, value, index)
            for index, (_, indexed) in enumerate(entries, start)
            for name, value in (indexed.terms if indexed else ())
        }
        self._terms += len(wanted)
        lacking = {index for _, _, index in wanted - self._store.kept_terms(wanted)}
        for index, (leaf, indexed) in enumerate(entries, start):
            leaf_hash, identity = names.get(index, (None, None))
            if leaf_hash != merkle.leaf_hash(leaf):
                yield index, "the database has it under another leaf hash"
            if indexed and identity != indexed.identity:
                yield index, "the database has it under another identity"
            if index in lacking:
                yield index, "the database lacks an index term of it"

    def finish(self, findings: Findings) -> None:
        """Check that there is nothing beyond: no term that no entry has, no entry that no checkpoint covers."""
        kept = self._store.term_count(size=findings.checkpoint.size)
        if kept != self._terms and not findings.unknown:
            findings.fault("index", f"{kept} terms are kept, but the entries have {self._terms}")
        extent = self._store.extent()
        for what, end in (("entries", extent.entries), ("index terms", extent.terms)):
            if end > extent.size:
                findings.fault(
                    what,
                    f"there are {what} up to {end - 1}, but the newest checkpoint is of size {extent.size}",
                )


def check_checkpoints(store: Store, findings: Findings, *, log_keys: Sequence[VerifierKey]) -> None:
    """Check every checkpoint that the database has, up to the checked one: signed by the log, and of this very tree."""
    before = findings.checkpoint.size + 1
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
    elif _root(store, signed.size) != signed.root:
        findings.fault(path, "the tree of that size has another root, or lacks tiles")


def _root(store: Store, size: int) -> Hash | None:
    try:
        return root_at(store, size)
    except InconsistentError:
        return None
