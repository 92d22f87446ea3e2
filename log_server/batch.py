"""A batch: what a writer may do inside its one transaction, under the tree's lock."""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from assay.attest.admission import Admitted
from assay.log_server import models, rows
from assay.log_server.database import insert_rows
from assay.log_server.hashes import Place, TileHashes
from assay.log_server.rows import Identity, Known, StoredCheckpoint, StoredCosignature
from assay.tlog import merkle
from assay.tlog.checkpoint import Checkpoint
from assay.tlog.merkle import Hash
from assay.tlog.tiles import TILE_WIDTH

_LOG_ID = 1

_TILES_KEPT = 64
"""Tiles that a transaction remembers of those it wrote; the rest it reads again if it needs them."""


class Batch:
    """What a writer may do inside its one transaction, under the tree's lock."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tiles: dict[Place, bytes] = {}

    def latest(self) -> StoredCheckpoint:
        """The newest signed checkpoint."""
        return rows.latest(self._connection)

    def identity(self) -> Identity | None:
        """Whose tree this is."""
        return rows.identity(self._connection)

    def identify(self, origin: str, vkeys: Sequence[str]) -> None:
        """Write down whose tree this is: once in a log's life."""
        values = {"id": _LOG_ID, "origin": origin, "vkeys": "\n".join(vkeys), "frozen_ms": None}
        self._connection.execute(models.log.insert().values(values))

    def find_identities(self, identities: Sequence[bytes]) -> dict[bytes, Known]:
        """Which of these entries are already in, and where."""
        table = models.entry
        columns = (table.c.identity, table.c.index, table.c.leaf_hash)
        query = select(*columns).where(table.c.identity.in_(identities))
        rows = self._connection.execute(query)
        return {bytes(identity): Known(index, Hash(bytes(leaf))) for identity, index, leaf in rows}

    def hashes(self) -> TileHashes:
        """A hash reader that sees this transaction; what it has read stays true after it."""
        return TileHashes(lambda level, index: rows.tile(self._connection, level, index), known=self._tiles)

    def append(self, start: int, admitted: Sequence[Admitted], *, now_ms: int) -> list[Hash]:
        """Write entries from index ``start`` on, with their terms, blobs and tiles; returns their leaf hashes."""
        hashes = [merkle.leaf_hash(item.leaf) for item in admitted]
        entries = [
            {
                "index": start + offset,
                "leaf": item.leaf,
                "leaf_hash": hashes[offset],
                "identity": item.identity,
                "integrated_ms": now_ms,
            }
            for offset, item in enumerate(admitted)
        ]
        terms = [
            {"name": name, "value": value, "index": start + offset}
            for offset, item in enumerate(admitted)
            for name, value in dict.fromkeys(item.terms)
        ]
        insert_rows(self._connection, models.entry, entries)
        insert_rows(self._connection, models.term, terms)
        for data in dict.fromkeys(blob for item in admitted for blob in item.blobs):
            rows.keep_blob(self._connection, data)
        self._extend_tiles(0, start, hashes)
        return hashes

    def sign(self, checkpoint: Checkpoint, note: bytes, *, now_ms: int, published: bool) -> None:
        """Write a checkpoint of a new size."""
        self._connection.execute(
            models.checkpoint.insert().values(
                size=checkpoint.size,
                root=checkpoint.root,
                note=note,
                signed_ms=now_ms,
                published_ms=now_ms if published else None,
            )
        )

    def keep_cosignature(self, size: int, kept: StoredCosignature) -> None:
        """Keep a cosignature of a checkpoint, instead of an older one by the same key."""
        rows.keep_cosignature(self._connection, size, kept)

    def forget(self) -> None:
        """Take back the checkpoint of the empty tree and whose it was, for a log that is to be recovered."""
        for table in (models.cosignature, models.checkpoint, models.log):
            self._connection.execute(table.delete())

    def _extend_tiles(self, level: int, start: int, hashes: Sequence[Hash]) -> None:
        """Append hashes to a level from position ``start`` on; each tile that fills adds one to the next."""
        full: list[Hash] = []
        first_full = start // TILE_WIDTH
        position = 0
        while position < len(hashes):
            index, offset = divmod(start + position, TILE_WIDTH)
            piece = hashes[position : position + TILE_WIDTH - offset]
            content = (rows.tile(self._connection, level, index) or b"") if offset else b""
            if len(content) != offset * 32:
                raise AssertionError(f"tile {level}/{index} holds {len(content) // 32} hashes, not {offset}")
            content += b"".join(piece)
            self._put_tile(level, index, content, exists=offset > 0)
            if len(content) == TILE_WIDTH * 32:
                row = [Hash(content[at : at + 32]) for at in range(0, len(content), 32)]
                full.append(merkle.root_of(row))
            position += len(piece)
        if full:
            self._extend_tiles(level + 1, first_full, full)

    def _put_tile(self, level: int, index: int, content: bytes, *, exists: bool) -> None:
        table = models.tile
        if exists:
            where = (table.c.level == level) & (table.c.index == index)
            self._connection.execute(table.update().where(where).values(hashes=content))
        else:
            self._connection.execute(table.insert().values(level=level, index=index, hashes=content))
        self._tiles[level, index] = content
        if len(self._tiles) > _TILES_KEPT:
            del self._tiles[next(iter(self._tiles))]
