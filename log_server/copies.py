"""Where copies of a log live, a folder or an S3-compatible bucket, and how they are read back."""

from collections.abc import Sequence
from pathlib import Path

from assay.log_server.bucket_target import BucketTarget
from assay.log_server.folder_target import FolderTarget
from assay.log_server.targets import Target
from assay.tlog.errors import UnavailableError
from assay.tlog.tiles import TILE_WIDTH, Bundle, Tile, format_bundle, parse_bundle


def open_target(place: str, *, folder: Path) -> Target:
    """The target that a configuration or a user names: ``s3://bucket/prefix``, or a folder.

    Raises:
        MalformedError: another URL (code ``config``).
    """
    return BucketTarget(place) if "://" in place else FolderTarget(folder / place)


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
        full = None
        if content is None and bundle.width < TILE_WIDTH:
            full = self._target.read(Bundle(bundle.index, TILE_WIDTH).path)
        if full is not None:
            return format_bundle(parse_bundle(full, width=TILE_WIDTH)[: bundle.width])
        return self._there(bundle.path, content)

    def _tile(self, tile: Tile) -> bytes:
        content = self._target.read(tile.path)
        if content is None and tile.width < TILE_WIDTH:
            full = self._target.read(Tile(tile.level, tile.index, TILE_WIDTH).path)
            content = None if full is None else full[: tile.width * 32]
        return self._there(tile.path, content)

    def _read(self, path: str) -> bytes:
        return self._there(path, self._target.read(path))

    def _there(self, path: str, content: bytes | None) -> bytes:
        if content is None:
            raise UnavailableError(f"{self._target.name}: there is no {path}", code="absent")
        return content
