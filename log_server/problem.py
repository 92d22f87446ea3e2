"""Problem documents (RFC 9457): how every refusal looks to a program.

``application/problem+json`` with ``title``, ``status``, ``detail`` and a stable ``code``; some carry more.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Response

from assay.tlog.errors import LogError, MalformedError, StaleError, UnavailableError, UntrustedError

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

_STATUS_BY_CODE = {"too-large": 413, "frozen": 405}
_STATUS_BY_KIND = ((MalformedError, 400), (UntrustedError, 403), (StaleError, 403), (UnavailableError, 503))


class NotFoundError(LogError):
    """There is nothing at that address."""

    code = "not-found"


class QuorumUnavailableError(UnavailableError):
    """The entry is in the log, but its witnesses have not answered in time; carries what is known of it."""

    code = "quorum-unavailable"

    def __init__(self, message: str, *, known: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.known = dict(known)


def status_of(error: LogError) -> int:
    """The HTTP status that a refusal has."""
    if error.code in _STATUS_BY_CODE:
        return _STATUS_BY_CODE[error.code]
    if isinstance(error, NotFoundError):
        return 404
    for kind, status in _STATUS_BY_KIND:
        if isinstance(error, kind):
            return status
    return 500


def problem(error: LogError) -> Response:
    """The response that says why a request was refused."""
    extra = error.known if isinstance(error, QuorumUnavailableError) else {}
    response = document(status_of(error), code=error.code, detail=str(error), extra=extra)
    if response.status_code == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


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
