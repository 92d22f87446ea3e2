"""What every route needs: the service, and strict readers of paths and queries."""

from collections.abc import Collection
from typing import cast

import orjson
from flask import Response, current_app, request

from assay.attest import jcs
from assay.log_server.service import LogService
from assay.log_server.tokens import TokenError
from assay.tlog import strict
from assay.tlog.errors import MalformedError

EXTENSION = "assay_log"
TOKENS = "assay_tokens"


def log() -> LogService:
    """The log that this application serves."""
    return cast("LogService", current_app.extensions[EXTENSION])


def require_token() -> None:
    """Refuse a request without a token of this log.

    Raises:
        TokenError: there is none.
    """
    tokens = current_app.extensions[TOKENS]
    if tokens is None:
        raise TokenError("this needs a token, and the log has none")
    tokens.verify(request.headers.get("Authorization"))


def query(allowed: Collection[str]) -> dict[str, str]:
    """The query's parameters: known ones only, each once.

    Raises:
        MalformedError: an unknown or repeated parameter (code ``query``).
    """
    values: dict[str, str] = {}
    for name, items in request.args.lists():
        if name not in allowed:
            raise MalformedError(f"{strict.shown(name)} is not a parameter here", code="query")
        if len(items) != 1 or not items[0]:
            raise MalformedError(f"{name!r} stands more than once, or is empty", code="query")
        values[name] = items[0]
    return values


def no_query() -> None:
    """Refuse any parameter."""
    query(())


def number(values: dict[str, str], name: str, *, high: int = strict.MAX_DECIMAL) -> int | None:
    """An optional decimal parameter.

    Raises:
        MalformedError: not a canonical decimal, or above ``high`` (code ``query``).
    """
    if name not in values:
        return None
    try:
        value = strict.decimal(values[name], what=name)
    except MalformedError as error:
        raise MalformedError(str(error), code="query") from error
    if value > high:
        raise MalformedError(f"{name}: at most {high}", code="query")
    return value


def json_response(value: jcs.Json, *, status: int = 200) -> Response:
    """JSON for programs, with a final newline."""
    return Response(orjson.dumps(value) + b"\n", status=status, content_type="application/json")
