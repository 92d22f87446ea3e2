"""What the other side is told of a fault that is not its own: the operator's log has the rest."""

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from assay.tlog.errors import LogError, UnavailableError

_log = structlog.get_logger("http")


class InternalError(LogError):
    """The server failed in a way that it was not written for."""

    code = "internal"


def refusal_of(error: Exception) -> LogError:
    """The refusal for an exception that nobody foresaw; it is logged here.

    A database or disk that is away is no defect of the program and comes back: ``storage``, to be tried again.
    """
    if _is_storage(error):
        _log.error("storage does not answer", reason=str(error).partition("\n")[0])
        return UnavailableError("the log cannot reach its storage; try again", code="storage")
    _log.error("internal error", exc_info=error)
    return InternalError("the server failed; the operator's log says why")


def _is_storage(error: Exception) -> bool:
    if isinstance(error, OSError | OperationalError | InterfaceError | PoolTimeoutError):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated
