"""The anchor: a second memory of the newest signed checkpoint, outside the data directory.

A log that is restored from a backup and signs again forks itself. The anchor turns that into a refused start:
it is advanced after the commit and before the checkpoint leaves the process, so the database can be ahead of
it (a crash between the two) but never honestly behind.
"""

import os
from pathlib import Path

from assay.log_server.store import Store, root_at
from assay.tlog.checkpoint import Checkpoint, parse_signed_checkpoint, verify_checkpoint
from assay.tlog.errors import InconsistentError
from assay.tlog.keys import VerifierKey


class AnchorFile:
    """An anchor in one file, replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    def read(self) -> bytes:
        """The anchored note.

        Raises:
            OSError: it is missing or unreadable; that is never taken for "nothing signed yet".
        """
        return self._path.read_bytes()

    def advance(self, note: bytes) -> None:
        """Replace the anchor, durably: write, fsync, rename, fsync the directory."""
        temporary = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


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
            f"that {whose} holds; signing from here would fork the log",
            evidence={"known": note, "database": latest.note},
            code="behind-anchor",
        )
    return known


def catch_up(anchor: AnchorFile, store: Store) -> None:
    """After a crash between commit and anchor, let the anchor follow the database."""
    latest = store.latest()
    if parse_signed_checkpoint(anchor.read()).checkpoint.size < latest.size:
        anchor.advance(latest.note)
