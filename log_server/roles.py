"""Roles: what only one of several processes on a database may do at a time, such as asking the witnesses.

Whoever holds the role's lock has it; a process that ends, however it ends, lets go, and another takes over.
Two holders at once would be a waste, not a danger: everything that is done in a role is idempotent.
"""

import hashlib
import threading
from collections.abc import Callable
from contextlib import ExitStack

import structlog
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from assay.log_server.database import Database
from assay.log_server.files import lock_file

_log = structlog.get_logger("roles")

_POLL_S = 1.0


class Role:
    """A thread that waits for a role, does its duty while it has it, and gives it up when stopped.

    Args:
        database: whose processes share the role.
        name: the role's.
        begin: called when this process has got the role.
        end: called when it has lost it, or is stopped.
    """

    def __init__(
        self, database: Database, name: str, *, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self._database = database
        self._name = name
        self._begin = begin
        self._end = end
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"role {name}", daemon=True)

    def start(self) -> None:
        """Begin to want the role."""
        self._thread.start()

    def stop(self) -> None:
        """End the duty and give the role up."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with ExitStack() as held:
                    still = self._take(held)
                    self._serve(still)
            except BlockingIOError:
                self._stopping.wait(_POLL_S)
            except (SQLAlchemyError, OSError) as error:
                _log.warning("role not available", role=self._name, reason=str(error).splitlines()[0])
                self._stopping.wait(_POLL_S)

    def _serve(self, still: Callable[[], None]) -> None:
        self._begin()
        try:
            while not self._stopping.wait(_POLL_S):
                still()
        finally:
            self._end()

    def _take(self, held: ExitStack) -> Callable[[], None]:
        """Take the role's lock, to be held by ``held``; returns what fails once it is lost.

        Raises:
            BlockingIOError: another process has it.
        """
        file = self._database.file
        if file is not None:
            held.enter_context(lock_file(file.with_name(f"{file.name}.{self._name}"), wait=False))
            return lambda: None
        connection = held.enter_context(self._database.reading())
        number = int.from_bytes(
            hashlib.sha256(f"assay {self._name}".encode()).digest()[:8], "big", signed=True
        )
        if not connection.execute(select(func.pg_try_advisory_lock(number))).scalar_one():
            raise BlockingIOError(f"the role {self._name} is taken")
        held.callback(_let_go, connection, number)
        return lambda: _require_alive(connection)


def _require_alive(connection: Connection) -> None:
    connection.execute(select(1))


def _let_go(connection: Connection, number: int) -> None:
    if not connection.invalidated and not connection.closed:
        connection.execute(select(func.pg_advisory_unlock(number)))
