"""The outermost layer: who asks and how often, a name for each request, one line about it afterwards."""

import re
import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog

from assay.log_server import headers, metrics
from assay.log_server.config import Config
from assay.log_server.limits import RateLimit, client_address
from assay.log_server.logs import REQUEST_ID
from assay.log_server.problem import problem
from assay.log_server.routes import rekor
from assay.log_server.tokens import TokenFile
from assay.tlog.errors import LogError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = structlog.get_logger("http")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{8,64}")
_READS = ("GET", "HEAD", "OPTIONS")
_METHODS = frozenset({*_READS, "POST", "PUT", "DELETE"})
_ROUTES = re.compile(
    r"/(?:api/v2/)?(?:(checkpoint)$|(tile/entries)/|(tile)/)"
    r"|/(api/v1/(?:entries/batch|entries|leaves|consistency|checkpoints|blobs|log))(?=/|$)"
    r"|/(api/v2/log/entries|livez|readyz|health|metrics|openapi\.json)$"
    r"|/((?:index|checkpoints|witnesses|verify|search)(?:\.json)?)$"
    r"|/(entry|m|product|signer|enclave|static)/"
)


class Front:
    """A WSGI application around the log's.

    Args:
        app: the log.
        config: limits, tokens, and whether to log accesses.
        tokens: of this log; None if it has none.
    """

    def __init__(self, app: "WSGIApplication", *, config: Config, tokens: TokenFile | None) -> None:
        self._app = app
        self._tokens = tokens
        self._required = config.access.require_token
        self._proxies = config.limits.trusted_proxies
        self._reads = RateLimit(config.limits.reads_per_minute)
        self._writes = RateLimit(config.limits.writes_per_minute)
        self._token_writes = RateLimit(config.limits.token_writes_per_minute)
        self._access_log = config.logging.access

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        began = time.perf_counter()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        client = client_address(
            environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR"), trusted_proxies=self._proxies
        )
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, fields: list[tuple[str, str]], *rest: Any) -> Any:
            started.append((status, fields))
            return start_response(status, [*fields, ("X-Request-Id", request_id)], *rest)

        named = REQUEST_ID.set(request_id)
        try:
            app = self._refuse(environ, client) or self._app
            answer = app(environ, start)
            status, fields = started[-1]
            seconds = time.perf_counter() - began
            self._note(environ, client, int(status[:3]), _length(environ, fields), seconds)
        finally:
            REQUEST_ID.reset(named)
        return answer

    def _refuse(self, environ: "WSGIEnvironment", client: str) -> "WSGIApplication | None":
        """The application that refuses this client, or None."""
        path = environ["PATH_INFO"]
        try:
            self._count(environ, client)
        except LogError as error:
            response = rekor.refused(error) if path == rekor.PATH else problem(error)
            return headers.finish(response, method=environ["REQUEST_METHOD"], path=path)
        return None

    def _count(self, environ: "WSGIEnvironment", client: str) -> None:
        if environ["REQUEST_METHOD"] in _READS:
            self._reads.spend(client)
            return
        authorization = environ.get("HTTP_AUTHORIZATION")
        if self._tokens is not None and (self._required or authorization):
            token = self._tokens.verify(authorization)
            environ["assay.token"] = token.name
            self._token_writes.spend(f"token {token.name}")
        else:
            self._writes.spend(client)

    def _note(
        self, environ: "WSGIEnvironment", client: str, status: int, length: int, seconds: float
    ) -> None:
        method = environ["REQUEST_METHOD"] if environ["REQUEST_METHOD"] in _METHODS else "other"
        route = route_of(environ["PATH_INFO"])
        metrics.request_answered(route, method, status, seconds)
        if self._access_log:
            _log.info(
                "request",
                method=method,
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 1),
                bytes=length,
                client=client,
            )


def _length(environ: "WSGIEnvironment", fields: list[tuple[str, str]]) -> int:
    """The bytes of the body that is sent."""
    if environ["REQUEST_METHOD"] == "HEAD":
        return 0
    return next((int(value) for name, value in fields if name.lower() == "content-length"), 0)


def route_of(path: str) -> str:
    """A path's route: one of a bounded number of names, whatever was asked for."""
    if path == "/":
        return "/"
    match = _ROUTES.match(path)
    return "other" if match is None else "/" + next(name for name in match.groups() if name)
