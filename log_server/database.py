"""The database under the store: SQLite or PostgreSQL, and how one process after the other writes to it.

Every write of the log is one transaction under the tree's lock, which is taken before anything is read; so
any number of threads, processes and servers may sequence, one batch after the other, and none forks the
tree. On PostgreSQL it is the lock on the row of ``log``. SQLite has one writer anyway; a file lock in front of
it makes the waiting fair, where SQLite alone would poll and sleep.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, select

from assay.log_server import models
from assay.log_server.files import lock_file

_WRITES = "assay_writes"
"""The execution option of a connection whose transaction begins by taking SQLite's write lock."""

_READERS = 12
"""Reading connections of a process, made when first needed and kept; more threads than that take turns."""

_READ_CACHE_KIB = 1024
_WRITE_CACHE_KIB = 16_384
"""Pages that SQLite keeps a connection: for the one that writes, the inner pages of the indices of millions."""


class Database:
    """Connections to one database.

    Args:
        url: an SQLAlchemy URL: ``sqlite:///FILE``, or ``postgresql+psycopg://…``.
    """

    def __init__(self, url: str) -> None:
        make = _sqlite if url.startswith("sqlite") else _postgresql
        self.engine = make(url, connections=2, cache_kib=_WRITE_CACHE_KIB)
        # One statement a read: nothing to begin, and nothing to roll back when the connection is given back.
        self._reads = make(
            url,
            connections=_READERS,
            cache_kib=_READ_CACHE_KIB,
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
        )

    @property
    def file(self) -> Path | None:
        """SQLite's file; None for a server."""
        name = self.engine.url.database
        return Path(name) if self.engine.dialect.name == "sqlite" and name else None

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()
        self._reads.dispose()

    def serving(self) -> AbstractContextManager[None]:
        """Hold, with other servers, SQLite's file against being replaced; on a database server, nothing."""
        return nullcontext() if self.file is None else lock_file(_serving(self.file), shared=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection whose every statement sees what is committed when it runs."""
        with self._reads.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction under the tree's lock: committed at the end, or rolled back by an exception."""
        with self._turn(), self.engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                if self.file is None:
                    connection.execute(select(models.log.c.id).with_for_update())
                yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self.file is None:
            yield
            return
        with lock_file(self.file.with_name(self.file.name + ".lock")):
            yield


def replacing(file: Path) -> AbstractContextManager[None]:
    """Hold the right to replace an SQLite file by another, which no server may have open meanwhile.

    Raises:
        BlockingIOError: a server has it open.
    """
    return lock_file(_serving(file), wait=False)


def _serving(file: Path) -> Path:
    return file.with_name(f"{file.name}.serving")


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows, every one with all columns of the table."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.execute(table.insert(), rows)
        return
    # COPY: a row of INSERT costs the server and the driver several times as much (bench/log.py).
    names = [column.name for column in table.columns]
    quoted = ", ".join(f'"{name}"' for name in names)
    cursor = connection.connection.cursor()
    with cursor.copy(f'COPY "{table.name}" ({quoted}) FROM STDIN (FORMAT BINARY)') as copy:
        copy.set_types([_COPY_TYPES[type(column.type).__name__] for column in table.columns])
        for row in rows:
            copy.write_row([row[name] for name in names])


_SESSION = " ".join(
    f"-c {setting}"
    for setting in (
        # A server that hangs, or whose network is gone, must not hold the tree's lock for ever.
        "idle_in_transaction_session_timeout=30s",
        "tcp_keepalives_idle=5",
        "tcp_keepalives_interval=5",
        "tcp_keepalives_count=3",
    )
)

_COPY_TYPES = {"BigInteger": "int8", "Integer": "int4", "LargeBinary": "bytea", "String": "varchar"}


def _postgresql(url: str, *, connections: int, cache_kib: int, **options: Any) -> Engine:
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,  # entries have no place in the operator's log
        connect_args={"connect_timeout": 5, "tcp_user_timeout": 10_000, "options": _SESSION},
        **options,
    )


def _sqlite(url: str, *, connections: int, cache_kib: int, **options: Any) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": 30},
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,
        **options,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver must not open transactions of its own, or BEGIN IMMEDIATE would come second.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged entry survives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA cache_size=-{cache_kib}")
        cursor.close()

    if "isolation_level" in options:
        return engine

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock before anything is read; a later upgrade could fail half-way.
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
