"""The exported copy: what the database holds, as immutable files that a plain web server can serve.

The database is the truth; the copy follows it and is never read back by the server. Tiles and bundles are
written once, and compared if they are there already; the checkpoint comes last, so that whatever checkpoint
a reader finds, all that it covers is there. A crash at any point leaves such a copy, and the next round goes on.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import structlog

from assay.attest import entry
from assay.attest.entry import Registration
from assay.log_server.copies import Target
from assay.log_server.store import Store
from assay.log_server.witnessing import cosigned_note
from assay.tlog import tiles
from assay.tlog.checkpoint import Checkpoint, verify_checkpoint
from assay.tlog.errors import InconsistentError, LogError
from assay.tlog.keys import VerifierKey
from assay.tlog.tiles import TILE_WIDTH, Bundle, Tile

_log = structlog.get_logger("export")

_REGISTRATION = b'{"apiVersion":"0.1.0","kind":"enclave",'
"""How the leaf of a registration begins, and no other canonical entry does."""

Progress = Callable[[int, int], None]
"""Told how many files of how many have been seen to."""


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
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Copy in the background until stopped, or until the copy turns out to be another tree."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="export", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the file under way."""
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
            except LogError as error:
                _log.warning("copy failed", target=self._target.name, reason=str(error))
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
        published = self._store.published()
        old = self._copied()
        if published is None:
            return Exported(old.size if old else 0, 0, 0)
        new = Checkpoint(self._log_keys[0].name, published.size, published.root)
        self._require_older(old, new)
        note = cosigned_note(self._store, published)
        old_size = 0 if old is None else old.size
        paths = list(self._new_files(old_size, new.size))
        written = 0
        for number, (path, read) in enumerate(paths):
            if self._stopping.is_set():
                raise _StoppedError
            written += self._write_once(path, read(), compress=path.startswith("tile/entries/"))
            if progress:
                progress(number + 1, len(paths))
        for sha256 in self._new_blobs(old_size, new.size):
            blob = self._store.blob(sha256)
            if blob is not None:
                written += self._write_once(f"api/v1/blobs/sha256/{sha256.hex()}", blob, compress=False)
        if self._target.read("checkpoint") != note:
            self._target.replace("checkpoint", note)
            written += 1
        self._drop_partials(old_size, new.size)
        return Exported(old_size, new.size, written)

    def _copied(self) -> Checkpoint | None:
        note = self._target.read("checkpoint")
        return None if note is None else verify_checkpoint(note, log_keys=self._log_keys)

    def _require_older(self, old: Checkpoint | None, new: Checkpoint) -> None:
        if old is None:
            return
        ours = self._store.checkpoint(old.size)
        if old.size > new.size or ours is None or ours.root != old.root:
            raise InconsistentError(
                f"the copy {self._target.name} has a checkpoint of size {old.size} that this log has not published",
                evidence={"copy": old.text.encode(), "log": new.text.encode()},
                code="copy-differs",
            )

    def _new_files(self, old_size: int, new_size: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
        for tile in tiles.new_tiles(old_size, new_size):
            yield tile.path, partial(self._tile, tile)
        for bundle in tiles.new_bundles(old_size, new_size):
            yield bundle.path, partial(self._bundle, bundle)

    def _tile(self, tile: Tile) -> bytes:
        content = self._store.tile(tile.level, tile.index) or b""
        assert len(content) >= tile.width * 32, f"{tile.path} is not in the database"
        return content[: tile.width * 32]

    def _bundle(self, bundle: Bundle) -> bytes:
        start = bundle.index * TILE_WIDTH
        entries = self._store.entries(start, start + bundle.width)
        assert len(entries) == bundle.width, f"{bundle.path} is not in the database"
        return tiles.format_bundle(entries)

    def _new_blobs(self, old_size: int, new_size: int) -> Iterator[bytes]:
        """The hashes of the evidence that new registrations were judged with."""
        for start in range(old_size, new_size, TILE_WIDTH):
            for leaf in self._store.entries(start, min(start + TILE_WIDTH, new_size)):
                if leaf.startswith(_REGISTRATION):
                    parsed = entry.parse_entry(leaf)
                    assert isinstance(parsed, Registration)
                    yield from parsed.appraisal.collateral.values()

    def _write_once(self, path: str, content: bytes, *, compress: bool) -> bool:
        there = self._target.read(path)
        if there is None:
            self._target.write(path, content, compress=compress)
            return True
        if there != content:
            raise InconsistentError(
                f"the copy {self._target.name} holds other bytes at {path} than this log",
                evidence={"path": path.encode()},
                code="copy-differs",
            )
        return False

    def _drop_partials(self, old_size: int, new_size: int) -> None:
        """Remove the partial tiles of the old size whose full ones are there now; readers turn to those."""
        for tile in tiles.partial_tiles(old_size):
            if (new_size >> 8 * tile.level) // TILE_WIDTH > tile.index:
                self._target.delete(tile.path)
        if old_size % TILE_WIDTH and new_size // TILE_WIDTH > old_size // TILE_WIDTH:
            self._target.delete(tiles.bundle_at(old_size // TILE_WIDTH, old_size).path)


class _StoppedError(Exception):
    """The thread was asked to end in the middle of a round."""
