"""Problem documents (RFC 9457): how every refusal looks to a program.

``application/problem+json`` with ``title``, ``status``, ``detail`` and a stable ``code``; some carry more.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Response
from sqlalchemy.exc import SQLAlchemyError

from assay.tlog.errors import LogError, MalformedError, StaleError, UnavailableError, UntrustedError

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

_STATUS_BY_CODE = {"too-large": 413, "token": 401, "rate-limited": 429}
_STATUS_BY_KIND = ((MalformedError, 400), (UntrustedError, 403), (StaleError, 403), (UnavailableError, 503))


class NotFoundError(LogError):
    """There is nothing at that address."""

    code = "not-found"


class MethodError(LogError):
    """The path is there, but not for this method."""

    code = "method"


class FrozenError(LogError):
    """The log takes no more entries."""

    code = "frozen"


class QuorumUnavailableError(UnavailableError):
    """The entry is in the log, but its witnesses have not answered in time; carries what is known of it."""

    code = "quorum-unavailable"

    def __init__(self, message: str, *, known: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.known = dict(known)


def of_fault(error: Exception) -> LogError | None:
    """The refusal that a fault of the database or disk amounts to; None for any other fault, which is ours."""
    if isinstance(error, SQLAlchemyError | OSError):
        return UnavailableError("the log's storage does not answer; try again", code="storage")
    return None


def status_of(error: LogError) -> int:
    """The HTTP status that a refusal has."""
    if error.code in _STATUS_BY_CODE:
        return _STATUS_BY_CODE[error.code]
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, MethodError | FrozenError):
        return 405
    for kind, status in _STATUS_BY_KIND:
        if isinstance(error, kind):
            return status
    return 500


def problem(error: LogError) -> Response:
    """The response that says why a request was refused."""
    extra = error.known if isinstance(error, QuorumUnavailableError) else {}
    response = document(status_of(error), code=error.code, detail=str(error), extra=extra)
    response.headers.update(headers_of(error, response.status_code))
    return response


def headers_of(error: LogError, status: int) -> dict[str, str]:
    """What HTTP wants beside a status: when to come again, how to be let in, what else would work."""
    if status in (429, 503):
        return {"Retry-After": str(getattr(error, "retry_after_s", RETRY_AFTER_S))}
    if status == 401:
        return {"WWW-Authenticate": 'Bearer realm="assay"'}
    return {"Allow": "GET, HEAD, OPTIONS"} if status == 405 else {}


def document(status: int, *, code: str, detail: str, extra: Mapping[str, Any] | None = None) -> Response:
    """A problem document."""
    body = {
        "type": f"urn:assay:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **(extra or {}),
    }
    return Response(json.dumps(body) + "\n", status=status, content_type=CONTENT_TYPE)
