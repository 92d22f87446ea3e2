"""Where copies of a log live: a folder, or an S3-compatible bucket; and reading a copy back.

Paths are those of tlog-tiles (c2sp.org/tlog-tiles), plus ``api/v1/blobs/sha256/<hex>``. Bundles compress well
and are compressed once: beside the plain file as ``.gz`` in a folder, for web servers that look for it, and as
the object itself with ``Content-Encoding: gzip`` in a bucket.
"""

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from obstore.exceptions import BaseError, NotFoundError

from assay.log_server.bucket import open_bucket
from assay.tlog.errors import UnavailableError
from assay.tlog.tiles import TILE_WIDTH, Bundle, Tile, format_bundle, parse_bundle

_IMMUTABLE = "public, max-age=31536000, immutable"
_BRIEF = "public, max-age=1, must-revalidate"


class Target(Protocol):
    """A place that a log is copied to. Every write is whole and durable, or did not happen.

    All methods raise UnavailableError for what cannot be read or written.
    """

    name: str

    def read(self, path: str) -> bytes | None:
        """A file's content, not compressed; None if there is none."""
        ...

    def write(self, path: str, content: bytes, *, compress: bool = False) -> None:
        """Write a file that never changes again."""
        ...

    def replace(self, path: str, content: bytes) -> None:
        """Write the one file that does change: the checkpoint. All that was written before is durable then."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is removed already."""
        ...


def open_target(place: str, *, folder: Path) -> Target:
    """The target that a configuration or a user names: ``s3://bucket/prefix``, or a folder."""
    return BucketTarget(place) if "://" in place else FolderTarget(folder / place)


class FolderTarget:
    """A copy in a folder, for any web server."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = str(root)

    def read(self, path: str) -> bytes | None:
        """A file's content."""
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(self.name, error) from error

    def write(self, path: str, content: bytes, *, compress: bool = False) -> None:
        """Write read-only files; the compressed one first, so that it is there whenever the plain one is."""
        if compress:
            self._put(self._root / f"{path}.gz", gzip.compress(content, compresslevel=6, mtime=0), mode=0o444)
        self._put(self._root / path, content, mode=0o444)

    def replace(self, path: str, content: bytes) -> None:
        """Replace a file by another in one step."""
        self._put(self._root / path, content, mode=0o644)

    def delete(self, path: str) -> None:
        """Remove a file and its compressed form, and the folder of partial tiles that it leaves empty."""
        try:
            for name in (path, f"{path}.gz"):
                (self._root / name).unlink(missing_ok=True)
            parent = (self._root / path).parent
            if parent.suffix == ".p" and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        except OSError as error:
            raise _failed(self.name, error) from error

    def _put(self, path: Path, content: bytes, *, mode: int) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            self._sync(path.parent)
        except OSError as error:
            raise _failed(self.name, error) from error

    def _sync(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class BucketTarget:
    """A copy in an S3-compatible bucket; credentials and endpoint come from the environment."""

    def __init__(self, url: str) -> None:
        self._store, prefix = open_bucket(url, what="copy")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self.name = url

    def read(self, path: str) -> bytes | None:
        """An object's content."""
        try:
            result = self._store.get(self._prefix + path)
            content = bytes(result.bytes())
            packed = result.attributes.get("Content-Encoding") == "gzip"
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise _failed(self.name, error) from error
        return gzip.decompress(content) if packed else content

    def write(self, path: str, content: bytes, *, compress: bool = False) -> None:
        """Put an object."""
        encoding = {"Content-Encoding": "gzip"} if compress else {}
        data = gzip.compress(content, compresslevel=6, mtime=0) if compress else content
        self._put(
            path, data, {"Content-Type": "application/octet-stream", "Cache-Control": _IMMUTABLE, **encoding}
        )

    def replace(self, path: str, content: bytes) -> None:
        """Put the checkpoint."""
        self._put(path, content, {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": _BRIEF})

    def delete(self, path: str) -> None:
        """Remove an object."""
        try:
            self._store.delete(self._prefix + path)
        except (NotFoundError, FileNotFoundError):
            return
        except BaseError as error:
            raise _failed(self.name, error) from error

    def _put(self, path: str, content: bytes, attributes: dict[str, str]) -> None:
        try:
            self._store.put(self._prefix + path, content, attributes=attributes)
        except BaseError as error:
            raise _failed(self.name, error) from error


class CopySource:
    """A copy read back, as the tile readers want it (a :class:`~assay.tlog.tile_reader.TileSource`)."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def read_checkpoint(self) -> bytes:
        """The copy's checkpoint, a signed note."""
        return self._read("checkpoint")

    def read_tiles(self, tiles: Sequence[Tile]) -> list[bytes]:
        """The tiles' bytes; of a partial tile that is gone, the head of the full one."""
        return [self._tile(tile) for tile in tiles]

    def read_bundle(self, bundle: Bundle) -> bytes:
        """An entry bundle's bytes; of a partial bundle that is gone, the head of the full one."""
        content = self._target.read(bundle.path)
        if content is None and bundle.width < TILE_WIDTH:
            full = self._read(Bundle(bundle.index, TILE_WIDTH).path)
            return format_bundle(parse_bundle(full, width=TILE_WIDTH)[: bundle.width])
        return self._read(bundle.path) if content is None else content

    def _tile(self, tile: Tile) -> bytes:
        content = self._target.read(tile.path)
        if content is None and tile.width < TILE_WIDTH:
            return self._read(Tile(tile.level, tile.index, TILE_WIDTH).path)[: tile.width * 32]
        return self._read(tile.path) if content is None else content

    def _read(self, path: str) -> bytes:
        content = self._target.read(path)
        if content is None:
            raise UnavailableError(f"{self._target.name}: there is no {path}", code="absent")
        return content


def _failed(name: str, error: Exception) -> UnavailableError:
    return UnavailableError(f"{name}: {str(error).splitlines()[0]}", code="copy")
