"""The anchor: a second memory of the newest signed checkpoint, outside the data directory.

A log that is restored from a backup and signs again forks itself. The anchor turns that into a refused start:
it is advanced after the commit and before the checkpoint leaves the process, so the database can be ahead of
it (a crash between the two) but never honestly behind.

Several processes may sequence on one database and so share one anchor. It moves by compare-and-swap, and only
to or past checkpoints that stand in the database: a server with another database cannot move it unnoticed.
"""

import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from obstore.exceptions import AlreadyExistsError, GenericError, NotFoundError, PreconditionError

from assay.log_server.bucket import open_bucket
from assay.log_server.files import lock_file, replace_file
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.store import Store, root_at
from assay.tlog.checkpoint import Checkpoint, parse_signed_checkpoint, verify_checkpoint
from assay.tlog.errors import InconsistentError, MalformedError, UnavailableError
from assay.tlog.keys import VerifierKey

if TYPE_CHECKING:
    from obstore import UpdateVersion


class AnchorMovedError(Exception):
    """The anchor does not hold what was expected; ``current`` is what it holds."""

    def __init__(self, current: bytes) -> None:
        super().__init__("the anchor was moved by another process")
        self.current = current


class Anchor(Protocol):
    """Where the newest signed note is remembered, beside the database."""

    name: str

    def read(self) -> bytes:
        """The anchored note.

        Raises:
            OSError: it is missing or unreadable; that is never taken for "nothing signed yet".
        """
        ...

    def create(self, note: bytes) -> None:
        """Write the first note.

        Raises:
            FileExistsError: there is one already.
        """
        ...

    def swap(self, expected: bytes, new: bytes) -> None:
        """Replace ``expected`` by ``new``, durably, or not at all.

        Raises:
            AnchorMovedError: it holds something else.
            OSError: it cannot be read or written.
        """
        ...


def open_anchor(place: str, *, folder: Path) -> Anchor:
    """The anchor that a configuration names: ``s3://bucket/key``, or a file relative to ``folder``."""
    return AnchorObject(place) if "://" in place else AnchorFile(folder / place)


class AnchorFile:
    """An anchor in one file, replaced atomically; a file lock makes the swap one step on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    def read(self) -> bytes:
        """The anchored note."""
        return self._path.read_bytes()

    def create(self, note: bytes) -> None:
        """Write the first note."""
        with self._lock():
            if self._path.exists():
                raise FileExistsError(f"{self._path}: there is an anchor already")
            self._replace(note)

    def swap(self, expected: bytes, new: bytes) -> None:
        """Compare and replace: write, fsync, rename, fsync the directory."""
        with self._lock():
            current = self.read()
            if current != expected:
                raise AnchorMovedError(current)
            self._replace(new)

    def _lock(self) -> AbstractContextManager[None]:
        return lock_file(self._path.with_name(self._path.name + ".lock"))

    def _replace(self, note: bytes) -> None:
        replace_file(self._path, note, mode=0o600)


class AnchorObject:
    """An anchor in an S3-compatible bucket, for servers on several machines; moved by conditional writes.

    Credentials and endpoint come from the environment, as every S3 client takes them.
    """

    def __init__(self, url: str) -> None:
        self._store, self._key = open_bucket(url, what="anchor")
        if not self._key:
            raise MalformedError(f"anchor {url!r}: the key of an object is missing", code="config")
        self.name = url

    def read(self) -> bytes:
        """The anchored note."""
        return self._get()[0]

    def create(self, note: bytes) -> None:
        """Write the first note."""
        try:
            self._store.put(self._key, note, mode="create")
        except AlreadyExistsError as error:
            raise FileExistsError(f"{self.name}: there is an anchor already") from error
        except GenericError as error:
            raise OSError(f"{self.name}: {error}") from error

    def swap(self, expected: bytes, new: bytes) -> None:
        """Compare and replace."""
        current, version = self._get()
        if current != expected:
            raise AnchorMovedError(current)
        try:
            self._store.put(self._key, new, mode=version)
        except PreconditionError as error:
            raise AnchorMovedError(self.read()) from error
        except GenericError as error:
            raise OSError(f"{self.name}: {error}") from error

    def _get(self) -> tuple[bytes, "UpdateVersion"]:
        try:
            result = self._store.get(self._key)
            tag = result.meta["e_tag"]
            content = bytes(result.bytes())
        except NotFoundError as error:
            raise FileNotFoundError(f"{self.name}: there is no anchor") from error
        except GenericError as error:
            raise OSError(f"{self.name}: {error}") from error
        if tag is None:
            raise OSError(f"{self.name}: the bucket gives no ETag; it cannot compare and swap")
        return content, {"e_tag": tag}


class Anchoring:
    """Keeps the anchor in step with one database, whoever else moves it.

    Args:
        anchor: where it is.
        store: the database, already checked against it (:func:`verify_not_behind`).
    """

    def __init__(self, anchor: Anchor, store: Store) -> None:
        self._anchor = anchor
        self._store = store
        self._lock = threading.Lock()
        self._held = anchor.read()
        self._covered = _size(self._held)

    @property
    def covered(self) -> int:
        """The size that the anchor is known to have reached."""
        return self._covered

    def cover(self, checkpoint: StoredCheckpoint) -> None:
        """See to it that the anchor is at a committed checkpoint, or past it.

        Raises:
            UnavailableError: it cannot be written (code ``anchor``); the checkpoint must not leave the process.
            InconsistentError: it holds a checkpoint that the database has not got (code ``behind-anchor``).
        """
        while checkpoint.size > self._covered:
            with self._lock:
                try:
                    self._anchor.swap(self._held, checkpoint.note)
                    self._held, self._covered = checkpoint.note, checkpoint.size
                except AnchorMovedError as moved:
                    self._follow(moved.current)
                except OSError as error:
                    raise UnavailableError(
                        f"the anchor cannot be advanced: {error}", code="anchor"
                    ) from error

    def _follow(self, current: bytes) -> None:
        """Somebody else moved it: fine, if to a checkpoint of this very database."""
        size = _size(current)
        stored = self._store.checkpoint(size)
        if stored is None or stored.note != current:
            raise InconsistentError(
                f"the anchor {self._anchor.name} holds a checkpoint of size {size} that is not in this database; "
                "another server signs for this log with another database",
                evidence={"anchor": current, "database": self._store.latest().note},
                code="behind-anchor",
            )
        self._held, self._covered = current, size


def verify_not_behind(
    store: Store, note: bytes, *, log_keys: tuple[VerifierKey, ...], whose: str
) -> Checkpoint:
    """Check that the database holds the tree of a checkpoint that this log once signed.

    Args:
        store: the database.
        note: the checkpoint; it counts only with all of this log's signatures.
        log_keys: this log's.
        whose: where the note comes from, for the message.

    Raises:
        MalformedError, UntrustedError: no checkpoint of this log.
        InconsistentError: the database is behind it, or holds another tree (code ``behind-anchor``).
    """
    known = verify_checkpoint(note, log_keys=log_keys)
    latest = store.latest()
    if known.size > latest.size or root_at(store, known.size) != known.root:
        raise InconsistentError(
            f"the database (size {latest.size}) does not continue the checkpoint of size {known.size} "
            f"that {whose} holds; signing from here would fork the log. Bring back the newest database, or rebuild "
            "it from the exported tiles with 'assay log recover --from'",
            evidence={"known": note, "database": latest.note},
            code="behind-anchor",
        )
    return known


def _size(note: bytes) -> int:
    return parse_signed_checkpoint(note).checkpoint.size
