"""A witness's memory: one row a log, in SQLite, moved forward by compare-and-swap only.

Losing this file, or restoring an old copy of it, makes the witness sign what it once would have refused. Back
it up as what it is: state that must never go back.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import Column, LargeBinary, MetaData, String, Table, create_engine, event, select
from sqlalchemy.exc import IntegrityError

from assay.tlog.checkpoint import parse_signed_checkpoint
from assay.witness.core import Cosigned

_metadata = MetaData()

_cosigned = Table(
    "cosigned",
    _metadata,
    Column("origin", String(255), primary_key=True),
    Column("note", LargeBinary, nullable=False),
)


class SqliteState:
    """The memory in one file.

    Args:
        path: created if it is absent.
    """

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        event.listen(self._engine, "connect", _prepare)
        _metadata.create_all(self._engine)

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def newest(self, origin: str) -> Cosigned | None:
        """The newest cosigned checkpoint of a log.

        Raises:
            MalformedError: the stored bytes do not parse; the witness then signs nothing for this log.
        """
        with self._engine.connect() as connection:
            data = connection.execute(
                select(_cosigned.c.note).where(_cosigned.c.origin == origin)
            ).scalar_one_or_none()
        return None if data is None else Cosigned(parse_signed_checkpoint(data).checkpoint, data)

    def advance(self, *, expected: Cosigned | None, new: Cosigned) -> bool:
        """Put ``new`` in the place of ``expected``; durable when it returns true."""
        origin = new.checkpoint.origin
        old = expected.checkpoint if expected else None
        if old and (old.origin != origin or old.size > new.checkpoint.size):
            raise AssertionError("a witness's memory never moves backwards")
        if expected is None:
            return self._insert(origin, new)
        # The comparison is part of the UPDATE, so that of two racers exactly one changes the row.
        update = (
            _cosigned.update()
            .where((_cosigned.c.origin == origin) & (_cosigned.c.note == expected.note))
            .values(note=new.note)
        )
        with self._engine.begin() as connection:
            return connection.execute(update).rowcount == 1

    def _insert(self, origin: str, new: Cosigned) -> bool:
        try:
            with self._engine.begin() as connection:
                connection.execute(_cosigned.insert().values(origin=origin, note=new.note))
        except IntegrityError:
            return False
        return True


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a cosignature never leaves before its state is on disk
    cursor.close()
