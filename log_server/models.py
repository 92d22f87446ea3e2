"""The tables. What each row means, and what may change once it is written.

Only ``tile`` rows of the right edge and ``checkpoint.published_ms`` are ever updated; a tile only grows.
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

entry = Table(
    "entry",
    metadata,
    Column("index", _Index, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary(32), nullable=False, index=True),
    Column("identity", LargeBinary(32), nullable=False, unique=True),
    Column("integrated_ms", BigInteger, nullable=False),
)
"""One row a leaf. ``identity`` is unique: the same entry twice is the same row."""

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
    Column("name", String(32), nullable=False),
    Column("value", String(255), nullable=False),
    Column("index", _Index, ForeignKey("entry.index"), nullable=False),
    PrimaryKeyConstraint("name", "value", "index"),
)
"""What an entry is found by; written in the same transaction as the entry."""

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
    PrimaryKeyConstraint("size", "name", "key_id"),
)
"""The newest cosignature of each witness key for a size."""

Index("term_index", term.c.index)
