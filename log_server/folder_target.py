"""A copy of a log in a folder, for any web server.

Every file is made under another name, made durable, and then linked to its own: a link never replaces what is
there. Folders are made durable together, before the checkpoint moves. Beside each bundle lies its compressed form as
``.gz``, for web servers that look for it.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from assay.fetch.tiles import unpack_gzip
from assay.log_server.files import lock_file, sync_folder, write_file
from assay.log_server.targets import MAX_FILE_SIZE, differs, failed, is_bundle, pack
from assay.tlog.errors import MalformedError

_DRAFTS = ".drafts"
_ABANDONED_S = 3600
"""A draft this old is nobody's any more: its writer was killed."""


class FolderTarget:
    """A folder; it is made, with all above it, when the first file is written."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._unsynced: set[Path] = set()
        self._making = Lock()
        self.name = str(root)

    def read(self, path: str) -> bytes | None:
        """A file's content; a bundle's compressed form, if there is one, must hold the same.

        Raises:
            InconsistentError: it does not (code ``copy-differs``): clients that take gzip get something else.
        """
        content = self._read(self._root / path)
        if content is not None and is_bundle(path):
            packed = self._read(self._root / f"{path}.gz")
            if packed is not None and not _holds(packed, content):
                raise differs(self.name, f"{path}.gz")
        return content

    def create(self, path: str, content: bytes, *, compress: bool) -> bool:
        """Write read-only files; the compressed one first, so that it is there whenever the plain one is."""
        if (self._root / path).exists():
            return False
        if compress and not self._link(self._root / f"{path}.gz", pack(content)):
            packed = self._read(self._root / f"{path}.gz")
            if packed is not None and not _holds(packed, content):
                raise differs(self.name, f"{path}.gz")
        return self._link(self._root / path, content)

    def swap(self, path: str, expected: bytes | None, content: bytes) -> bool:
        """Replace a file by another in one step, under a lock among the processes of this machine."""
        file = self._root / path
        with _told(self.name):
            self._make(file.parent)
            self._sync()
            with lock_file(self._root / f".{path}.lock"):
                if self._read(file) != expected:
                    return False
                with self._draft(content, mode=0o644) as draft:
                    draft.replace(file)
                sync_folder(file.parent)
            self._drop_abandoned()
        return True

    def clear(self, path: str) -> None:
        """Remove a folder with its files."""
        folder = self._root / path
        with _told(self.name), suppress(FileNotFoundError):
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()

    def _read(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_SIZE + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except OSError as error:
            raise failed(self.name, error) from error
        if len(content) > MAX_FILE_SIZE:
            raise MalformedError(f"{path}: longer than {MAX_FILE_SIZE} bytes", code="too-large")
        return content

    def _link(self, path: Path, content: bytes) -> bool:
        with _told(self.name):
            self._make(path.parent)
            with self._draft(content, mode=0o444) as draft:
                try:
                    os.link(draft, path)
                except FileExistsError:
                    return False
        return True

    @contextmanager
    def _draft(self, content: bytes, *, mode: int) -> Iterator[Path]:
        """A durable file that is not yet anything's; gone again afterwards, unless it was renamed."""
        draft = self._root / _DRAFTS / secrets.token_hex(8)
        self._make(draft.parent)
        try:
            write_file(
                draft, content, mode=mode
            )  # whatever the umask is, for the web server must be able to read
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        """Make a folder, and remember that it and those above it are not durable yet."""
        with self._making:
            self._unsynced.add(folder)
            for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
                each.mkdir(exist_ok=True)
                each.chmod(0o755)  # as for files
                self._unsynced |= {each, each.parent}

    def _drop_abandoned(self) -> None:
        oldest_s = time.time() - _ABANDONED_S
        for draft in (self._root / _DRAFTS).iterdir():
            with suppress(FileNotFoundError):
                if draft.stat().st_mtime < oldest_s:
                    draft.unlink()

    def _sync(self) -> None:
        """Make all folders durable in which something was made."""
        with self._making:
            for folder in sorted(self._unsynced, reverse=True):
                with suppress(FileNotFoundError):  # of partial tiles, and cleared
                    sync_folder(folder)
            self._unsynced.clear()


def _holds(packed: bytes, content: bytes) -> bool:
    try:
        return unpack_gzip(packed, max_bytes=MAX_FILE_SIZE) == content
    except MalformedError:
        return False


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What the system refuses, as what it means to a copy."""
    try:
        yield
    except OSError as error:
        raise failed(name, error) from error
