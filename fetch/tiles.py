"""Reading a log's tiles over HTTP (c2sp.org/tlog-tiles): bytes only, believed by nobody yet.

``tlog.tile_reader`` authenticates what comes from here. Bundles may come packed without having been asked for so:
the specification lets a bucket that stores them packed serve them to everyone.
"""

import zlib
from collections.abc import Sequence

from assay.fetch import http
from assay.tlog.errors import MalformedError, UnavailableError
from assay.tlog.tiles import TILE_WIDTH, Bundle, Tile, format_bundle, parse_bundle

MAX_CHECKPOINT_SIZE = 65_536
_MAX_TILE_SIZE = TILE_WIDTH * 32
MAX_BUNDLE_SIZE = TILE_WIDTH * (2 + 65_535)
_GZIP = 31
"""zlib's name for one gzip member (RFC 1952), header and checksum included."""


class HttpTileSource:
    """The read side of one log.

    Args:
        url: the monitoring prefix, without a final slash.
        timeout_s: for each request.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s

    def read_checkpoint(self) -> bytes:
        """The newest published checkpoint, a signed note."""
        return self._get("checkpoint", max_bytes=MAX_CHECKPOINT_SIZE)

    def read_tiles(self, tiles: Sequence[Tile]) -> list[bytes]:
        """The tiles' bytes; of a partial tile that is gone, the head of the full one."""
        return [self._read_tile(tile) for tile in tiles]

    def read_bundle(self, bundle: Bundle) -> bytes:
        """An entry bundle's bytes; of a partial bundle that is gone, the head of the full one."""
        try:
            return self._get(bundle.path, max_bytes=MAX_BUNDLE_SIZE)
        except _AbsentError:
            if bundle.width == TILE_WIDTH:
                raise
            full = self._get(Bundle(bundle.index, TILE_WIDTH).path, max_bytes=MAX_BUNDLE_SIZE)
            return format_bundle(parse_bundle(full, width=TILE_WIDTH)[: bundle.width])

    def _read_tile(self, tile: Tile) -> bytes:
        try:
            return self._get(tile.path, max_bytes=_MAX_TILE_SIZE)
        except _AbsentError:
            if tile.width == TILE_WIDTH:
                raise
            full = self._get(Tile(tile.level, tile.index, TILE_WIDTH).path, max_bytes=_MAX_TILE_SIZE)
            return full[: tile.width * 32]

    def _get(self, path: str, *, max_bytes: int) -> bytes:
        response = http.request("GET", f"{self._url}/{path}", timeout_s=self._timeout_s, max_bytes=max_bytes)
        if response.status == 404:
            raise _AbsentError(f"{self._url}/{path}: the log has it not", code="absent")
        if response.status != 200:
            raise UnavailableError(f"{self._url}/{path}: HTTP {response.status}")
        if response.headers.get("content-encoding") == "gzip":
            return unpack_gzip(response.body, max_bytes=max_bytes)
        return response.body


class _AbsentError(UnavailableError):
    """404: the only answer on which a reader may turn to the full tile."""


def unpack_gzip(data: bytes, *, max_bytes: int) -> bytes:
    """The content of one whole gzip member; no more than ``max_bytes`` are ever unpacked.

    Raises:
        MalformedError: not gzip, cut short, bytes after it, or a longer content (code ``gzip``).
    """
    reader = zlib.decompressobj(_GZIP)
    try:
        content = reader.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise MalformedError(f"not gzip: {error}", code="gzip") from error
    if len(content) > max_bytes:
        raise MalformedError(f"gzip: more than {max_bytes} bytes come out of it", code="gzip")
    if not reader.eof or reader.unused_data:
        raise MalformedError("gzip: cut short, or with something after it", code="gzip")
    return content
