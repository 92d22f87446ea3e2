"""The exported copy: what the database holds, as immutable files that a plain web server can serve.

The database is the truth; the copy follows it and is never read back by the server. A round is:

1. read the copy's checkpoint, and only then the newest published one: so the copy is never honestly ahead;
2. once in an exporter's life, compare where the copy ends with the log: it is continued only if it is this tree;
3. create all tiles and bundles that the published tree has and the copied one has not, then the blobs that its
   entries refer to; what is there already is compared, and never overwritten;
4. remove the partial tiles whose full ones are there now: readers turn to those;
5. replace the checkpoint, if it is still the one of step 1. All before is durable then.

A crash at any point leaves a copy whose checkpoint is covered by what is there, and the next round goes on from
it. Two exporters at once do no harm: they create the same files, and of two checkpoints the newer one stays.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from assay.fetch.blobs import blob_path
from assay.log_server.ahead import map_ahead
from assay.log_server.copies import CopySource
from assay.log_server.evidence import referred_blobs
from assay.log_server.store import Store, root_at
from assay.log_server.targets import Target, differs, is_bundle
from assay.log_server.witnessing import cosigned_note
from assay.tlog import tiles
from assay.tlog.checkpoint import Checkpoint, verify_checkpoint
from assay.tlog.errors import InconsistentError, LogError, UnavailableError
from assay.tlog.keys import VerifierKey
from assay.tlog.tiles import TILE_WIDTH, Bundle, Tile

_log = structlog.get_logger("export")

_WRITES_AT_ONCE = 4
"""A bucket answers after tens of milliseconds, so some writes overlap; a bundle may have megabytes, so few do."""

Progress = Callable[[int, int], None]
"""Told how many files of how many have been seen to."""

_File = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Exported:
    """What a round did: from which size to which, and how many files it wrote."""

    old_size: int
    new_size: int
    written: int


class Exporter:
    """Copies one log to one target.

    Args:
        store: the log's database.
        target: where the copy is.
        log_keys: the log's own; a copy of another log is not touched.
        interval_s: between two rounds of the thread.
    """

    def __init__(
        self, store: Store, target: Target, *, log_keys: tuple[VerifierKey, ...], interval_s: float
    ) -> None:
        self._store = store
        self._target = target
        self._log_keys = log_keys
        self._interval_s = interval_s
        self._edge_verified = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Copy in the background until stopped, or until the copy turns out to be another tree."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="export", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the files under way."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                done = self.round()
                if done.written:
                    _log.debug("copied", target=self._target.name, size=done.new_size, files=done.written)
            except InconsistentError as error:
                _log.critical("the copy is not of this log; copying stops", reason=str(error))
                return
            except (LogError, SQLAlchemyError) as error:
                reason = str(error).splitlines()[0]
                _log.warning("copy failed", target=self._target.name, reason=reason)
            except _StoppedError:
                return
            self._stopping.wait(self._interval_s)

    def round(self, progress: Progress | None = None) -> Exported:
        """Bring the copy to the newest published checkpoint.

        Raises:
            InconsistentError: the copy holds other bytes, or more, than this log (code ``copy-differs``).
            MalformedError, UntrustedError: its checkpoint is none of this log's.
            UnavailableError: the target cannot be read or written.
        """
        while True:
            done = self._try_round(progress)
            if done is not None:
                return done

    def _try_round(self, progress: Progress | None) -> Exported | None:
        """One round; None if another exporter has moved the checkpoint meanwhile."""
        there = self._target.read("checkpoint")
        old = None if there is None else verify_checkpoint(there, log_keys=self._log_keys)
        published = self._store.published()
        old_size = 0 if old is None else old.size
        if old is not None:
            self._require_own(old)
        if published is None or published.size < old_size:
            return Exported(old_size, old_size, 0)
        written = self._write(self._new_files(old_size, published.size), progress)
        written += self._write(self._new_blobs(old_size, published.size), None)
        self._drop_partials(old_size, published.size)
        note = cosigned_note(self._store, published)
        if note == there:
            return Exported(old_size, published.size, written)
        if not self._target.swap("checkpoint", there, note):
            return None
        return Exported(old_size, published.size, written + 1)

    def _require_own(self, old: Checkpoint) -> None:
        """The copy's tree is the beginning of ours, and where it ends it holds what we hold."""
        latest = self._store.latest()
        if old.size > latest.size or root_at(self._store, old.size) != old.root:
            raise InconsistentError(
                f"the copy {self._target.name} has a checkpoint of size {old.size} that is not of this log's tree of "
                f"{latest.size} entries",
                evidence={"copy": old.text.encode(), "log": latest.note},
                code="copy-differs",
            )
        if not self._edge_verified:
            self._require_edge(old.size)
            self._edge_verified = True

    def _require_edge(self, size: int) -> None:
        """The last tile of every level and the last bundle are what they are here."""
        source = CopySource(self._target)
        edge = [tiles.tile_at(0, (size - 1) // TILE_WIDTH, size)] if size else []
        for tile in dict.fromkeys([*edge, *tiles.partial_tiles(size)]):
            if self._read(source, tile) != self._tile(tile):
                raise differs(self._target.name, tile.path)
        if size:
            bundle = tiles.bundle_at((size - 1) // TILE_WIDTH, size)
            if self._read(source, bundle) != self._bundle(bundle):
                raise differs(self._target.name, bundle.path)

    def _read(self, source: CopySource, place: Tile | Bundle) -> bytes | None:
        try:
            return source.read_tiles([place])[0] if isinstance(place, Tile) else source.read_bundle(place)
        except UnavailableError as error:
            if error.code != "absent":
                raise
            return None

    def _new_files(self, old_size: int, new_size: int) -> tuple[int, Iterator[_File]]:
        new_tiles = tiles.new_tiles(old_size, new_size)
        new_bundles = tiles.new_bundles(old_size, new_size)

        def read() -> Iterator[_File]:
            for tile in new_tiles:
                yield tile.path, self._tile(tile)
            for bundle in new_bundles:
                yield bundle.path, self._bundle(bundle)

        return len(new_tiles) + len(new_bundles), read()

    def _tile(self, tile: Tile) -> bytes:
        content = self._store.tile(tile.level, tile.index) or b""
        assert len(content) >= tile.width * 32, f"{tile.path} is not in the database"
        return content[: tile.width * 32]

    def _bundle(self, bundle: Bundle) -> bytes:
        start = bundle.index * TILE_WIDTH
        entries = self._store.entries(start, start + bundle.width)
        assert len(entries) == bundle.width, f"{bundle.path} is not in the database"
        return tiles.format_bundle(entries)

    def _new_blobs(self, old_size: int, new_size: int) -> tuple[int, Iterator[_File]]:
        """The evidence that new registrations were judged with, as far as it is kept."""
        wanted: dict[bytes, None] = {}
        for start in range(old_size, new_size, TILE_WIDTH):
            for leaf in self._store.entries(start, min(start + TILE_WIDTH, new_size)):
                wanted.update(dict.fromkeys(referred_blobs(leaf)))

        def read() -> Iterator[_File]:
            for sha256 in wanted:
                blob = self._store.blob(sha256)
                if blob is not None:
                    yield blob_path(sha256), blob

        return len(wanted), read()

    def _write(self, files: tuple[int, Iterator[_File]], progress: Progress | None) -> int:
        """Create files, a few at once; returns how many were not there."""
        total, contents = files
        written = 0
        for number, new in enumerate(
            map_ahead(self._write_once, self._until_stopped(contents), threads=_WRITES_AT_ONCE)
        ):
            written += new
            if progress:
                progress(number + 1, total)
        return written

    def _until_stopped(self, contents: Iterator[_File]) -> Iterator[_File]:
        for content in contents:
            if self._stopping.is_set():
                raise _StoppedError
            yield content

    def _write_once(self, file: _File) -> bool:
        path, content = file
        if self._target.create(path, content, compress=is_bundle(path)):
            return True
        if self._target.read(path) != content:
            raise differs(self._target.name, path)
        return False

    def _drop_partials(self, old_size: int, new_size: int) -> None:
        """Remove the partial tiles, of whatever widths, of which the full ones are there now.

        Only the last tiles of the old size can have had any; those before lost theirs when they became full.
        """
        for tile in tiles.partial_tiles(old_size):
            full = Tile(tile.level, tile.index, TILE_WIDTH)
            if (new_size >> 8 * tile.level) // TILE_WIDTH > tile.index:
                self._target.clear(f"{full.path}.p")
                if tile.level == 0:
                    self._target.clear(f"{Bundle(tile.index, TILE_WIDTH).path}.p")


class _StoppedError(Exception):
    """The thread was asked to end in the middle of a round."""
