"""The first cosignature of each key for a size stays: it is what bounds an entry's time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add ``first_line``; of what was cosigned again before, the first is lost."""
    op.add_column("cosignature", sa.Column("first_line", sa.String, nullable=True))
