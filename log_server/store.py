"""The store: the log's state in one database, with its transactions as methods.

The database is trusted for durability only; an attacker in it can stop the log or make it refuse to start,
and with the log's keys fork it, which is what witnesses and the anchor are for. Every write of the sequencer
is one transaction that takes the write lock first and reads the tree's size under it, so that a second
process on the same database takes its turn instead of forking the tree.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite

from assay.attest.admission import Admitted
from assay.log_server import models
from assay.tlog import merkle, proof
from assay.tlog.checkpoint import Checkpoint
from assay.tlog.merkle import Hash, Node
from assay.tlog.tiles import TILE_WIDTH

_WRITES = "assay_writes"
"""The execution option of a connection that takes the write lock when its transaction begins."""

_LOCK = 4702394921427289928
"""PostgreSQL's advisory lock that stands for the tree's write lock."""


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint that the log signed; ``published_ms`` is None until its witnesses answered."""

    size: int
    root: Hash
    note: bytes
    signed_ms: int
    published_ms: int | None


@dataclass(frozen=True, slots=True)
class StoredCosignature:
    """A verified cosignature line of one witness key."""

    name: str
    key_id: bytes
    line: str
    time_s: int


class Store:
    """A log's database.

    Args:
        url: an SQLAlchemy URL, ``sqlite:///…`` by default.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)

    @property
    def engine(self) -> Engine:
        """For the migrations."""
        return self._engine

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextmanager
    def write(self) -> Iterator["Batch"]:
        """One write transaction, holding the log's write lock from its first statement to the commit."""
        with self._writing() as connection:
            yield Batch(connection)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                if connection.dialect.name != "sqlite":
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                yield connection

    def latest(self) -> StoredCheckpoint:
        """The newest checkpoint that the log signed; of size 0 in a fresh log.

        Raises:
            LookupError: the log was never initialised.
        """
        with self._engine.connect() as connection:
            return _latest(connection)

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
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else StoredCheckpoint(*row)

    def checkpoints(self, *, before: int | None, limit: int) -> list[StoredCheckpoint]:
        """Checkpoints of sizes below ``before``, newest first."""
        condition = True if before is None else models.checkpoint.c.size < before
        return self._checkpoints(condition, limit=limit)

    def _checkpoints(self, condition: Any, *, limit: int) -> list[StoredCheckpoint]:
        table = models.checkpoint
        query = select(table).where(condition).order_by(table.c.size.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [StoredCheckpoint(*row) for row in connection.execute(query)]

    def cosignatures(self, size: int) -> list[StoredCosignature]:
        """The cosignatures kept for a checkpoint, by name and key."""
        table = models.cosignature
        columns = (table.c.name, table.c.key_id, table.c.line, table.c.time_s)
        query = select(*columns).where(table.c.size == size).order_by(table.c.name, table.c.key_id)
        with self._engine.connect() as connection:
            return [StoredCosignature(*row) for row in connection.execute(query)]

    def keep_cosignatures(
        self, size: int, cosignatures: Sequence[StoredCosignature], *, published_ms: int | None
    ) -> None:
        """Replace the given keys' cosignatures of a checkpoint; publish it if a time is given."""
        table = models.cosignature
        with self._writing() as connection:
            for kept in cosignatures:
                connection.execute(
                    table.delete().where(
                        (table.c.size == size) & (table.c.name == kept.name) & (table.c.key_id == kept.key_id)
                    )
                )
                connection.execute(
                    table.insert().values(
                        size=size, name=kept.name, key_id=kept.key_id, line=kept.line, time_s=kept.time_s
                    )
                )
            if published_ms is not None:
                checkpoint = models.checkpoint
                connection.execute(
                    checkpoint.update()
                    .where((checkpoint.c.size == size) & checkpoint.c.published_ms.is_(None))
                    .values(published_ms=published_ms)
                )

    def entry(self, index: int) -> bytes | None:
        """The leaf at an index."""
        with self._engine.connect() as connection:
            return connection.execute(
                select(models.entry.c.leaf).where(models.entry.c.index == index)
            ).scalar_one_or_none()

    def entries(self, start: int, end: int) -> list[bytes]:
        """The leaves ``[start, end)`` that exist, in order."""
        table = models.entry
        query = select(table.c.leaf).where((table.c.index >= start) & (table.c.index < end))
        with self._engine.connect() as connection:
            return list(connection.execute(query.order_by(table.c.index)).scalars())

    def find_leaf(self, leaf_hash: Hash) -> int | None:
        """The first index of a leaf hash."""
        query = select(func.min(models.entry.c.index)).where(models.entry.c.leaf_hash == leaf_hash)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()

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
        with self._engine.connect() as connection:
            return list(connection.execute(query.limit(limit)).scalars())

    def blob(self, sha256: bytes) -> bytes | None:
        """A blob by its hash."""
        query = select(models.blob.c.data).where(models.blob.c.sha256 == sha256)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()

    def tile(self, level: int, index: int) -> bytes | None:
        """The hashes that a tile has so far."""
        with self._engine.connect() as connection:
            return _tile(connection, level, index)

    @contextmanager
    def hashes(self) -> Iterator["StoredHashes"]:
        """A hash reader over one connection."""
        with self._engine.connect() as connection:
            yield StoredHashes(connection)


class StoredHashes:
    """Reads node hashes from the stored tiles (a :class:`~assay.tlog.merkle.HashReader`)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tiles: dict[tuple[int, int], bytes] = {}

    def read_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        """The nodes' hashes; a node inside a tile is folded from the tile's hashes."""
        return [self._read(node) for node in nodes]

    def _read(self, node: Node) -> Hash:
        level, height = divmod(node.level, 8)
        first = node.index << height
        index, start = divmod(first, TILE_WIDTH)
        row = self._tile(level, index)[start * 32 : (start + (1 << height)) * 32]
        if len(row) != 32 << height:
            raise AssertionError(f"the stored tiles do not hold node {node}")
        return merkle.root_of([Hash(row[at : at + 32]) for at in range(0, len(row), 32)])

    def _tile(self, level: int, index: int) -> bytes:
        if (level, index) not in self._tiles:
            self._tiles[level, index] = _tile(self._connection, level, index) or b""
        return self._tiles[level, index]


class Batch:
    """What the sequencer may do inside its one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def latest(self) -> StoredCheckpoint:
        """The newest signed checkpoint, under the write lock."""
        return _latest(self._connection)

    def find_identity(self, identity: bytes) -> int | None:
        """The index of an entry that is already in."""
        query = select(models.entry.c.index).where(models.entry.c.identity == identity)
        return self._connection.execute(query).scalar_one_or_none()

    def leaf_hash(self, index: int) -> Hash:
        """The leaf hash of an entry that is in."""
        query = select(models.entry.c.leaf_hash).where(models.entry.c.index == index)
        return Hash(self._connection.execute(query).scalar_one())

    def hashes(self) -> StoredHashes:
        """A hash reader that sees this transaction."""
        return StoredHashes(self._connection)

    def append(self, start: int, admitted: Sequence[Admitted], *, now_ms: int) -> None:
        """Write entries from index ``start`` on, with their terms, blobs and tiles."""
        if not admitted:
            return
        hashes = [merkle.leaf_hash(item.leaf) for item in admitted]
        rows = [
            {
                "index": start + offset,
                "leaf": item.leaf,
                "leaf_hash": hashes[offset],
                "identity": item.identity,
                "integrated_ms": now_ms,
            }
            for offset, item in enumerate(admitted)
        ]
        self._connection.execute(models.entry.insert(), rows)
        terms = [
            {"name": name, "value": value, "index": start + offset}
            for offset, item in enumerate(admitted)
            for name, value in dict.fromkeys(item.terms)
        ]
        if terms:
            self._connection.execute(models.term.insert(), terms)
        self._keep_blobs([blob for item in admitted for blob in item.blobs])
        self._extend_tiles(0, start, hashes)

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

    def _keep_blobs(self, blobs: Sequence[bytes]) -> None:
        for data in dict.fromkeys(blobs):
            values = {"sha256": hashlib.sha256(data).digest(), "data": data}
            dialect: Any = sqlite if self._connection.dialect.name == "sqlite" else postgresql
            self._connection.execute(dialect.insert(models.blob).values(values).on_conflict_do_nothing())

    def _extend_tiles(self, level: int, start: int, hashes: Sequence[Hash]) -> None:
        """Append hashes to a level from position ``start`` on; each tile that fills adds one to the next."""
        full: list[Hash] = []
        first_full = start // TILE_WIDTH
        position = 0
        while position < len(hashes):
            index, offset = divmod(start + position, TILE_WIDTH)
            piece = hashes[position : position + TILE_WIDTH - offset]
            content = (_tile(self._connection, level, index) or b"") if offset else b""
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


def root_at(store: Store, size: int) -> Hash:
    """The root of the tree's first ``size`` leaves, recomputed from the stored tiles."""
    with store.hashes() as hashes:
        return proof.tree_root(size, hashes)


def _latest(connection: Connection) -> StoredCheckpoint:
    table = models.checkpoint
    row = connection.execute(select(table).order_by(table.c.size.desc()).limit(1)).one_or_none()
    if row is None:
        raise LookupError("the log has no checkpoint: it was never initialised")
    return StoredCheckpoint(*row)


def _tile(connection: Connection, level: int, index: int) -> bytes | None:
    table = models.tile
    query = select(table.c.hashes).where((table.c.level == level) & (table.c.index == index))
    return connection.execute(query).scalar_one_or_none()


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver must not open transactions of its own, or BEGIN IMMEDIATE would come second.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged entry survives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock before anything is read; a later upgrade could fail half-way.
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
