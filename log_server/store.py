"""The store: the log's state in one database, with its transactions as methods.

The database is trusted for durability only; an attacker in it can stop the log or make it refuse to start,
and with the log's keys fork it, which is what witnesses and the anchor are for.
"""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Engine, func, select, tuple_

from assay.log_server import models, rows
from assay.log_server.batch import Batch
from assay.log_server.database import Database
from assay.log_server.hashes import TileHashes
from assay.log_server.rows import Identity, StoredCheckpoint, StoredCosignature
from assay.tlog import proof
from assay.tlog.merkle import Hash

PlacedTerm = tuple[str, str, int]
"""An index term with its entry: name, value, index."""


class Extent(NamedTuple):
    """How far a database reaches: the newest checkpoint's size, and the ends of the entries and of their terms."""

    size: int
    entries: int
    terms: int


PublishedMark = tuple[int, int | None, int]
"""A published checkpoint's size, the sum of its cosignatures' times (Unix s), and how many it has."""


_OF_IT = models.cosignature.c.size == models.checkpoint.c.size
_PUBLISHED_MARK = (
    select(
        models.checkpoint.c.size,
        select(func.sum(models.cosignature.c.time_s)).where(_OF_IT).scalar_subquery(),
        select(func.count()).select_from(models.cosignature).where(_OF_IT).scalar_subquery(),
    )
    .where(models.checkpoint.c.published_ms.is_not(None))
    .order_by(models.checkpoint.c.size.desc())
    .limit(1)
)


class Store:
    """A log's database.

    Args:
        url: an SQLAlchemy URL, ``sqlite:///…`` or ``postgresql+psycopg://…``.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    @property
    def database(self) -> Database:
        """For the migrations, and for whoever takes a role among several servers."""
        return self._database

    @property
    def engine(self) -> Engine:
        """For the migrations."""
        return self._database.engine

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    @contextmanager
    def write(self) -> Iterator["Batch"]:
        """One write transaction, holding the tree's lock from its first statement to the commit."""
        with self._database.writing() as connection:
            yield Batch(connection)

    def identity(self) -> Identity | None:
        """Whose tree this is; None before the log was initialised."""
        with self._database.reading() as connection:
            return rows.identity(connection)

    def frozen_ms(self) -> int | None:
        """Since when the log takes nothing more, Unix ms; None if it is open."""
        identity = self.identity()
        return None if identity is None else identity.frozen_ms

    def freeze(self, *, now_ms: int) -> int:
        """Take nothing more, for good; returns since when. What is being sequenced comes before or is refused."""
        table = models.log
        with self._database.writing() as connection:
            connection.execute(table.update().where(table.c.frozen_ms.is_(None)).values(frozen_ms=now_ms))
            return int(connection.execute(select(table.c.frozen_ms)).scalar_one())

    def keep_blob(self, data: bytes) -> bool:
        """Keep evidence beside the log; false if it was there."""
        with self._database.writing() as connection:
            return rows.keep_blob(connection, data)

    def verify_writable(self) -> None:
        """Commit something, durably, and leave nothing of it.

        Raises:
            SQLAlchemyError, OSError: the database takes no writes now.
        """
        data = os.urandom(32)  # what was never there, so that it is written
        with self._database.writing() as connection:
            rows.keep_blob(connection, data)
            table = models.blob
            connection.execute(table.delete().where(table.c.sha256 == hashlib.sha256(data).digest()))

    def latest(self) -> StoredCheckpoint:
        """The newest checkpoint that the log signed; of size 0 in a fresh log.

        Raises:
            LookupError: the log was never initialised.
        """
        with self._database.reading() as connection:
            return rows.latest(connection)

    def checkpoint(self, size: int) -> StoredCheckpoint | None:
        """The checkpoint of exactly this size."""
        rows = self._checkpoints(models.checkpoint.c.size == size, limit=1)
        return rows[0] if rows else None

    def published(self, *, covering: int = 0) -> StoredCheckpoint | None:
        """The newest published checkpoint, or with ``covering`` the smallest of at least that size."""
        table = models.checkpoint
        query = select(table).where(table.c.published_ms.is_not(None))
        if covering:
            query = query.where(table.c.size >= covering).order_by(table.c.size).limit(1)
        else:
            query = query.order_by(table.c.size.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else StoredCheckpoint(*row)

    def published_mark(self) -> PublishedMark | None:
        """What changes whenever the newest published checkpoint or its cosignatures do."""
        with self._database.reading() as connection:
            row = connection.execute(_PUBLISHED_MARK).one_or_none()
        return None if row is None else (row[0], row[1], row[2])

    def checkpoints(self, *, before: int | None, limit: int) -> list[StoredCheckpoint]:
        """Checkpoints of sizes below ``before``, newest first."""
        condition = True if before is None else models.checkpoint.c.size < before
        return self._checkpoints(condition, limit=limit)

    def _checkpoints(self, condition: Any, *, limit: int) -> list[StoredCheckpoint]:
        table = models.checkpoint
        query = select(table).where(condition).order_by(table.c.size.desc()).limit(limit)
        with self._database.reading() as connection:
            return [StoredCheckpoint(*row) for row in connection.execute(query)]

    def cosignatures(self, size: int) -> list[StoredCosignature]:
        """The cosignatures kept for a checkpoint, by name and key."""
        table = models.cosignature
        columns = (table.c.name, table.c.key_id, table.c.line, table.c.time_s)
        query = select(*columns).where(table.c.size == size).order_by(table.c.name, table.c.key_id)
        with self._database.reading() as connection:
            return [StoredCosignature(*row) for row in connection.execute(query)]

    def first_cosignatures(self, size: int) -> list[str]:
        """The lines by which each key cosigned a checkpoint first, by name and key."""
        table = models.cosignature
        first = func.coalesce(table.c.first_line, table.c.line)
        query = select(first).where(table.c.size == size).order_by(table.c.name, table.c.key_id)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def cosigned_size(self, name: str, key_id: bytes) -> int:
        """The largest size that a witness key has cosigned, as far as is kept; 0 for none."""
        table = models.cosignature
        query = select(func.max(table.c.size)).where((table.c.name == name) & (table.c.key_id == key_id))
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one() or 0)

    def keep_cosignatures(
        self, size: int, cosignatures: Sequence[StoredCosignature], *, published_ms: int | None
    ) -> None:
        """Replace the given keys' cosignatures of a checkpoint; publish it if a time is given."""
        with self._database.writing() as connection:
            for kept in cosignatures:
                rows.keep_cosignature(connection, size, kept)
            if published_ms is not None:
                checkpoint = models.checkpoint
                connection.execute(
                    checkpoint.update()
                    .where((checkpoint.c.size == size) & checkpoint.c.published_ms.is_(None))
                    .values(published_ms=published_ms)
                )

    def entry(self, index: int) -> bytes | None:
        """The leaf at an index."""
        with self._database.reading() as connection:
            return connection.execute(
                select(models.entry.c.leaf).where(models.entry.c.index == index)
            ).scalar_one_or_none()

    def entries(self, start: int, end: int) -> list[bytes]:
        """The leaves ``[start, end)`` that exist, in order."""
        with self._database.reading() as connection:
            return rows.leaves(connection, start, end)

    def names(self, start: int, end: int) -> dict[int, tuple[Hash, bytes]]:
        """Under which leaf hash and which identity entries are kept, by index."""
        table = models.entry
        query = select(table.c.index, table.c.leaf_hash, table.c.identity)
        with self._database.reading() as connection:
            found = connection.execute(query.where((table.c.index >= start) & (table.c.index < end)))
            return {index: (leaf_hash, identity) for index, leaf_hash, identity in found}

    def kept_terms(self, wanted: Collection[PlacedTerm]) -> set[PlacedTerm]:
        """Those of the index terms that are kept."""
        columns = models.term.c.name, models.term.c.value, models.term.c.index
        with self._database.reading() as connection:
            found = connection.execute(select(*columns).where(tuple_(*columns).in_(wanted)))
            return {(name, value, index) for name, value, index in found}

    def term_count(self, *, size: int) -> int:
        """How many index terms the first ``size`` entries have together."""
        query = select(func.count()).where(models.term.c.index < size)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def extent(self) -> Extent:
        """How far the tables reach, as of one moment."""
        ends = (
            func.coalesce(func.max(column) + 1, 0) for column in (models.entry.c.index, models.term.c.index)
        )
        size = func.max(models.checkpoint.c.size)
        columns = [select(each).scalar_subquery() for each in (size, *ends)]
        with self._database.reading() as connection:
            return Extent(*connection.execute(select(*columns)).one())

    def find_leaf(self, leaf_hash: Hash) -> int | None:
        """The index of a leaf hash."""
        table = models.entry
        by_identity = select(table.c.index).where(
            (table.c.identity == leaf_hash) & (table.c.leaf_hash == leaf_hash)
        )
        by_hash = select(table.c.index).where(
            (table.c.leaf_hash == leaf_hash) & (table.c.leaf_hash != table.c.identity)
        )
        with self._database.reading() as connection:
            return connection.execute(by_identity.union_all(by_hash).limit(1)).scalar_one_or_none()

    def leaf(self, leaf_hash: Hash) -> bytes | None:
        """The leaf of a leaf hash."""
        index = self.find_leaf(leaf_hash)
        return None if index is None else self.entry(index)

    def find_terms(
        self, terms: Mapping[str, str], *, before: int | None = None, limit: int | None = None
    ) -> list[int]:
        """The indices of entries that have all these terms, newest first; all entries for no terms."""
        index = models.entry.c.index
        query = select(index).order_by(index.desc())
        for name, value in terms.items():
            alias = models.term.alias()
            query = query.where(
                index.in_(select(alias.c.index).where((alias.c.name == name) & (alias.c.value == value)))
            )
        if before is not None:
            query = query.where(index < before)
        with self._database.reading() as connection:
            return list(connection.execute(query.limit(limit)).scalars())

    def blob(self, sha256: bytes) -> bytes | None:
        """A blob by its hash."""
        query = select(models.blob.c.data).where(models.blob.c.sha256 == sha256)
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one_or_none()

    def tile(self, level: int, index: int) -> bytes | None:
        """The hashes that a tile has so far."""
        with self._database.reading() as connection:
            return rows.tile(connection, level, index)

    @contextmanager
    def hashes(self) -> Iterator[TileHashes]:
        """A hash reader over one connection."""
        with self._database.reading() as connection:
            yield TileHashes(lambda level, index: rows.tile(connection, level, index))


def root_at(store: Store, size: int) -> Hash:
    """The root of the tree's first ``size`` leaves, recomputed from the stored tiles."""
    with store.hashes() as hashes:
        return proof.tree_root(size, hashes)
