"""Rows as the rest of the server sees them, and the few statements that readers and writers share."""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

from assay.log_server import models
from assay.tlog.merkle import Hash


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose tree a database holds: the origin, the log's verifier keys, and since when it is frozen, if it is."""

    origin: str
    vkeys: tuple[str, ...]
    frozen_ms: int | None


@dataclass(frozen=True, slots=True)
class Known:
    """Where an entry is that is already in."""

    index: int
    leaf_hash: Hash


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


# What every read or every batch asks is built once: building a statement costs more than SQLite's answer to it.
_IDENTITY = select(models.log.c.origin, models.log.c.vkeys, models.log.c.frozen_ms)
_LATEST = select(models.checkpoint).order_by(models.checkpoint.c.size.desc()).limit(1)
_TILE = select(models.tile.c.hashes).where(
    (models.tile.c.level == bindparam("of_level")) & (models.tile.c.index == bindparam("at_index"))
)
_LEAVES = (
    select(models.entry.c.leaf)
    .where((models.entry.c.index >= bindparam("start")) & (models.entry.c.index < bindparam("end")))
    .order_by(models.entry.c.index)
)


def identity(connection: Connection) -> Identity | None:
    """Whose tree a database holds; None before it was initialised."""
    row = connection.execute(_IDENTITY).one_or_none()
    return None if row is None else Identity(row.origin, tuple(row.vkeys.splitlines()), row.frozen_ms)


def keep_cosignature(connection: Connection, size: int, kept: StoredCosignature) -> None:
    """Keep a cosignature as the newest by its key; the first one by it stays."""
    table = models.cosignature
    same = (table.c.size == size) & (table.c.name == kept.name) & (table.c.key_id == kept.key_id)
    again = {
        "line": kept.line,
        "time_s": kept.time_s,
        "first_line": func.coalesce(table.c.first_line, table.c.line),
    }
    if connection.execute(table.update().where(same).values(again)).rowcount:
        return
    values = {
        "size": size,
        "name": kept.name,
        "key_id": kept.key_id,
        "line": kept.line,
        "time_s": kept.time_s,
    }
    connection.execute(table.insert().values(values))


def keep_blob(connection: Connection, data: bytes) -> bool:
    """Keep a blob; false if it was there."""
    values = {"sha256": hashlib.sha256(data).digest(), "data": data}
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    done = connection.execute(dialect.insert(models.blob).values(values).on_conflict_do_nothing())
    return bool(done.rowcount)


def latest(connection: Connection) -> StoredCheckpoint:
    """The newest checkpoint that the log signed.

    Raises:
        LookupError: the log was never initialised.
    """
    row = connection.execute(_LATEST).one_or_none()
    if row is None:
        raise LookupError("the log has no checkpoint: it was never initialised")
    return StoredCheckpoint(*row)


def tile(connection: Connection, level: int, index: int) -> bytes | None:
    """The hashes that a tile has so far."""
    return connection.execute(_TILE, {"of_level": level, "at_index": index}).scalar_one_or_none()


def leaves(connection: Connection, start: int, end: int) -> list[bytes]:
    """The leaves ``[start, end)`` that exist, in order."""
    return list(connection.execute(_LEAVES, {"start": start, "end": end}).scalars())
