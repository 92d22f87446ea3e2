"""Several servers on one tree: its identity and lock; fewer and smaller indices."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_INDEX = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add ``log``; index leaf hashes only where they are not the identity; terms without row ids."""
    op.create_table(
        "log",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("vkeys", sa.String, nullable=False),
        sa.Column("frozen_ms", sa.BigInteger, nullable=True),
    )
    op.drop_index("ix_entry_leaf_hash", "entry")
    differs = sa.text("leaf_hash <> identity")
    op.create_index("entry_leaf_hash", "entry", ["leaf_hash"], sqlite_where=differs, postgresql_where=differs)
    op.rename_table("term", "old_term")
    op.create_table(
        "term",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("value", sa.String, nullable=False),
        sa.Column("index", _INDEX, nullable=False),
        sa.PrimaryKeyConstraint("name", "value", "index", name="term_key"),
        sqlite_with_rowid=False,
    )
    op.execute('INSERT INTO term (name, value, "index") SELECT name, value, "index" FROM old_term')
    op.drop_table("old_term")
    if op.get_bind().dialect.name == "postgresql":
        # What is stored is hashes, signatures and certificates: trying to compress them only costs.
        for table, column in (("entry", "leaf"), ("tile", "hashes"), ("checkpoint", "note")):
            op.execute(f'ALTER TABLE "{table}" ALTER COLUMN "{column}" SET STORAGE EXTERNAL')
