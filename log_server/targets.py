"""What a place must be able to do for a log to be copied to it, and what is the same in every place.

Paths are those of tlog-tiles (c2sp.org/tlog-tiles), plus ``api/v1/blobs/sha256/<hex>``.
"""

import gzip
from typing import Protocol

from assay.fetch.tiles import MAX_BUNDLE_SIZE
from assay.tlog.errors import InconsistentError, UnavailableError

MAX_FILE_SIZE = MAX_BUNDLE_SIZE
"""Bytes of the longest file of a copy; no more of one are ever read or unpacked."""


class Target(Protocol):
    """A place that a log is copied to. Every write is whole, or did not happen.

    All methods raise UnavailableError for what cannot be read or written, and MalformedError for what is there
    and cannot be a file of a copy.
    """

    name: str

    def read(self, path: str) -> bytes | None:
        """A file's content, not compressed; None if there is none."""
        ...

    def create(self, path: str, content: bytes, *, compress: bool) -> bool:
        """Write a file that never changes again; false, and nothing is written, if there is one already.

        Raises:
            InconsistentError: its compressed form is there, of another content (code ``copy-differs``).
        """
        ...

    def swap(self, path: str, expected: bytes | None, content: bytes) -> bool:
        """Replace the one file that does change, the checkpoint, in one step; false if it is not ``expected``.

        All that was created before is durable when it moves.
        """
        ...

    def clear(self, path: str) -> None:
        """Remove all files right below a path, and the path."""
        ...


def is_bundle(path: str) -> bool:
    """Whether a path is an entry bundle's: these compress well, and are compressed once."""
    return path.startswith("tile/entries/")


def is_partial(path: str) -> bool:
    """Whether a path is that of a partial tile or bundle, which goes when the full one is there."""
    return ".p/" in path


def pack(content: bytes) -> bytes:
    """Compress a bundle: gzip of a fixed level and without a time, so that it is the same everywhere."""
    return gzip.compress(content, compresslevel=6, mtime=0)


def differs(name: str, path: str) -> InconsistentError:
    """The copy ``name`` holds something else at ``path`` than the log."""
    return InconsistentError(
        f"the copy {name} holds something else at {path} than the log",
        evidence={"path": path.encode()},
        code="copy-differs",
    )


def failed(name: str, error: Exception) -> UnavailableError:
    """A place could not be read or written; how it said so, in one line."""
    return UnavailableError(f"{name}: {(str(error) or type(error).__name__).splitlines()[0]}", code="copy")
