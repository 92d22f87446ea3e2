"""The tables. What each row means, and what may change once it is written.

Only ``tile`` rows of the right edge, ``checkpoint.published_ms``, ``log.frozen_ms`` and the cosignatures are
ever updated; a tile only grows.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
)

metadata = MetaData()

# SQLite's row id is an INTEGER; elsewhere an index needs 64 bits.
_Index = BigInteger().with_variant(Integer, "sqlite")

log = Table(
    "log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("origin", String, nullable=False),
    Column("vkeys", String, nullable=False),
    Column("frozen_ms", BigInteger, nullable=True),
)
"""One row: whose tree this is (its verifier keys, one a line), and since when it takes nothing more. On
PostgreSQL the lock on this row is the tree's."""

entry = Table(
    "entry",
    metadata,
    Column("index", _Index, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary(32), nullable=False),
    Column("identity", LargeBinary(32), nullable=False, unique=True),
    Column("integrated_ms", BigInteger, nullable=False),
)
"""One row a leaf. ``identity`` is unique: the same entry twice is the same row."""

_differs = entry.c.leaf_hash != entry.c.identity
Index("entry_leaf_hash", entry.c.leaf_hash, sqlite_where=_differs, postgresql_where=_differs)
# Of most kinds the leaf hash is the identity; a second index of random keys would cost every append a page.

tile = Table(
    "tile",
    metadata,
    Column("level", Integer, nullable=False),
    Column("index", _Index, nullable=False),
    Column("hashes", LargeBinary, nullable=False),
    PrimaryKeyConstraint("level", "index"),
)
"""The hashes that a tile has so far, 1 to 256 of 32 bytes. A partial tile of any earlier size is its head."""

term = Table(
    "term",
    metadata,
    Column("name", String, nullable=False),
    Column("value", String, nullable=False),
    Column("index", _Index, nullable=False),
    PrimaryKeyConstraint("name", "value", "index"),
    sqlite_with_rowid=False,
)
"""What an entry is found by, a pure function of its leaf; written in the same transaction as the entry."""

blob = Table(
    "blob",
    metadata,
    Column("sha256", LargeBinary(32), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
"""Evidence beside the log, addressed by its hash."""

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("size", _Index, primary_key=True, autoincrement=False),
    Column("root", LargeBinary(32), nullable=False),
    Column("note", LargeBinary, nullable=False),
    Column("signed_ms", BigInteger, nullable=False),
    Column("published_ms", BigInteger, nullable=True),
)
"""Every checkpoint that this log signed; published once the witness policy was met for it."""

cosignature = Table(
    "cosignature",
    metadata,
    Column("size", _Index, ForeignKey("checkpoint.size"), nullable=False),
    Column("key_id", LargeBinary(4), nullable=False),
    Column("name", String(255), nullable=False),
    Column("line", String, nullable=False),
    Column("time_s", BigInteger, nullable=False),
    Column("first_line", String, nullable=True),
    PrimaryKeyConstraint("size", "name", "key_id"),
)
"""The newest cosignature of each witness key for a size, and the first one if that is another.

The newest shows that the log is alive; the first, that what the checkpoint covers was there so early."""
