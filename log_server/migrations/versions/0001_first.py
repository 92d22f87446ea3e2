"""The first schema: entries, tiles, terms, blobs, checkpoints and cosignatures."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_INDEX = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "entry",
        sa.Column("index", _INDEX, primary_key=True, autoincrement=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("identity", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("integrated_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_entry_leaf_hash", "entry", ["leaf_hash"])
    op.create_table(
        "tile",
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("index", _INDEX, nullable=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("level", "index"),
    )
    op.create_table(
        "term",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("value", sa.String(255), nullable=False),
        sa.Column("index", _INDEX, sa.ForeignKey("entry.index"), nullable=False),
        sa.PrimaryKeyConstraint("name", "value", "index"),
    )
    op.create_index("term_index", "term", ["index"])
    op.create_table(
        "blob",
        sa.Column("sha256", sa.LargeBinary(32), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "checkpoint",
        sa.Column("size", _INDEX, primary_key=True, autoincrement=False),
        sa.Column("root", sa.LargeBinary(32), nullable=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
        sa.Column("signed_ms", sa.BigInteger, nullable=False),
        sa.Column("published_ms", sa.BigInteger, nullable=True),
    )
    op.create_table(
        "cosignature",
        sa.Column("size", _INDEX, sa.ForeignKey("checkpoint.size"), nullable=False),
        sa.Column("key_id", sa.LargeBinary(4), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("line", sa.String, nullable=False),
        sa.Column("time_s", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("size", "name", "key_id"),
    )
