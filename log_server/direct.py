"""What a log is asked for all day, answered without Flask: submissions, tiles, entry bundles, the checkpoint.

Flask's routing, request and response objects cost a loaded server more than the log's own work on a
submission (bench/log.py). Everything else goes on to the application behind. Errors become the same problem
documents as everywhere.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import orjson
import structlog

from assay.log_server.problem import MethodError, NotFoundError, document, of_fault, problem
from assay.log_server.service import LogService
from assay.log_server.store import PublishedMark
from assay.log_server.witnessing import cosigned_note
from assay.tlog import tiles
from assay.tlog.errors import LogError, MalformedError
from assay.tlog.tiles import TILE_WIDTH

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = structlog.get_logger("http")

_FAULT = "the server failed; the operator's log says why"

MAX_BODY_SIZE = 256 * 1024

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
}
"""On every answer of the server, this module's and Flask's."""

_READ = {**HEADERS, "Access-Control-Allow-Origin": "*"}
_FULL = "public, max-age=31536000, immutable"
_PARTIAL = "public, max-age=60"
_FRESH = "public, max-age=1, must-revalidate"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, body, and headers beside its length."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Direct:
    """A WSGI application in front of another.

    Args:
        app: answers everything that is not answered here.
        log: whose submissions and reads are.
    """

    def __init__(self, app: "WSGIApplication", log: LogService) -> None:
        self._app = app
        self._log = log
        self._checkpoint: tuple[PublishedMark, Answer] | None = None

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer, or pass on."""
        answer = self._route(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if answer is None:
            return self._app(environ, start_response)
        try:
            found = answer(environ)
        except LogError as error:
            response = problem(error)
        except Exception as error:  # noqa: BLE001  # not around a check: nothing is admitted by it
            _log.error("internal error", path=environ["PATH_INFO"], exc_info=error)
            refusal = of_fault(error)
            response = problem(refusal) if refusal else document(500, code="internal", detail=_FAULT)
        else:
            return _send(found, environ, start_response)
        response.headers.update(HEADERS)
        response.headers["Cache-Control"] = "no-store"
        return response(environ, start_response)

    def _route(self, method: str, path: str) -> "Callable[[WSGIEnvironment], Answer] | None":
        if path == "/api/v1/entries":
            return self._submit if method == "POST" else None
        path = path.removeprefix("/api/v2")
        if path != "/checkpoint" and not path.startswith("/tile/"):
            return None
        if method in ("GET", "HEAD"):
            return self._newest if path == "/checkpoint" else self._tile
        return _preflight if method == "OPTIONS" else _only_read

    def _submit(self, environ: "WSGIEnvironment") -> Answer:
        """Take one entry in: 201 if it is new, 200 if it was there."""
        wait = query(environ, ("wait",)).get("wait", "integrated")
        if wait not in ("integrated", "witnessed"):
            raise MalformedError("wait: neither 'integrated' nor 'witnessed'", code="query")
        submitted = self._log.submit(read_body(environ, limit=MAX_BODY_SIZE), witnessed=wait == "witnessed")
        headers = {**HEADERS, "Content-Type": "application/json"}
        return Answer(201 if submitted.new else 200, orjson.dumps(submitted.to_json()) + b"\n", headers)

    def _newest(self, environ: "WSGIEnvironment") -> Answer:
        """The newest checkpoint that meets the witness policy, formatted again only when it has changed."""
        query(environ, ())
        mark = self._log.store.published_mark()
        if mark is None:
            raise NotFoundError("no checkpoint has met the witness policy yet", code="not-published")
        kept = self._checkpoint
        if kept is None or kept[0] != mark:
            kept = self._checkpoint = (mark, self._read_checkpoint())
        return _conditional(kept[1], environ)

    def _read_checkpoint(self) -> Answer:
        store = self._log.store
        newest = store.published()
        assert newest is not None, "what was published stays published"
        note = cosigned_note(store, newest)
        tag = hashlib.sha256(note).hexdigest()
        return _readable(note, kind="text/plain; charset=utf-8", caching=_FRESH, tag=tag)

    def _tile(self, environ: "WSGIEnvironment") -> Answer:
        """A tile or an entry bundle, full or partial; 404 beyond the newest signed checkpoint."""
        query(environ, ())
        path = environ["PATH_INFO"].removeprefix("/api/v2").removeprefix("/")
        try:
            content, full = (
                self._read_bundle(path) if path.startswith("tile/entries/") else self._read_tile(path)
            )
        except MalformedError as error:
            raise NotFoundError(str(error)) from error
        # A path's bytes never change, so its name is tag enough.
        tag = hashlib.sha256(path.encode()).hexdigest()
        caching = _FULL if full else _PARTIAL
        return _conditional(
            _readable(content, kind="application/octet-stream", caching=caching, tag=tag), environ
        )

    def _read_tile(self, path: str) -> tuple[bytes, bool]:
        asked = tiles.parse_tile_path(path)
        content = self._log.store.tile(asked.level, asked.index)
        if content is None or len(content) < asked.width * 32:
            raise NotFoundError(f"{path}: the log has not grown that far")
        return content[: asked.width * 32], asked.width == TILE_WIDTH

    def _read_bundle(self, path: str) -> tuple[bytes, bool]:
        asked = tiles.parse_bundle_path(path)
        start = asked.index * TILE_WIDTH
        entries = self._log.store.entries(start, start + asked.width)
        if len(entries) < asked.width:
            raise NotFoundError(f"{path}: the log has not grown that far")
        return tiles.format_bundle(entries), asked.width == TILE_WIDTH


def _preflight(environ: "WSGIEnvironment") -> Answer:
    """Any page may read the log (CORS)."""
    return Answer(
        204, b"", {**_READ, "Access-Control-Allow-Methods": "GET, HEAD", "Access-Control-Max-Age": "86400"}
    )


def _only_read(environ: "WSGIEnvironment") -> Answer:
    raise MethodError("this is only for reading")


def query(environ: "WSGIEnvironment", allowed: tuple[str, ...]) -> dict[str, str]:
    """The query's parameters: known ones only, each once.

    Raises:
        MalformedError: an unknown, repeated or empty parameter (code ``query``).
    """
    text = environ.get("QUERY_STRING", "")
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise MalformedError("too many parameters", code="query") from error
    values = dict(pairs)
    if len(values) != len(pairs) or not all(values.values()) or not set(values) <= set(allowed):
        raise MalformedError("an unknown parameter, or one that stands twice or is empty", code="query")
    return values


def read_body(environ: "WSGIEnvironment", *, limit: int) -> bytes:
    """The request's body.

    Raises:
        MalformedError: longer than ``limit`` bytes (code ``too-large``); no more than that is read.
    """
    length = environ.get("CONTENT_LENGTH") or ""
    if length.isdigit() and int(length) > limit:
        raise MalformedError(f"a body of more than {limit} bytes", code="too-large")
    if not length and not environ.get("wsgi.input_terminated"):
        return b""
    data: bytes = environ["wsgi.input"].read(int(length) if length.isdigit() else limit + 1)
    if len(data) > limit:
        raise MalformedError(f"a body of more than {limit} bytes", code="too-large")
    return data


def _readable(content: bytes, *, kind: str, caching: str, tag: str) -> Answer:
    headers = {**_READ, "Content-Type": kind, "Cache-Control": caching, "ETag": f'"{tag}"'}
    return Answer(200, content, headers)


def _conditional(answer: Answer, environ: "WSGIEnvironment") -> Answer:
    """304 if the client has it already (RFC 9110 §13.1.2)."""
    asked = environ.get("HTTP_IF_NONE_MATCH")
    if asked is None:
        return answer
    tags = {tag.strip().removeprefix("W/") for tag in asked.split(",")}
    if answer.headers["ETag"] not in tags and "*" not in tags:
        return answer
    return Answer(304, b"", {name: value for name, value in answer.headers.items() if name != "Content-Type"})


def _send(answer: Answer, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    headers = list(answer.headers.items())
    if answer.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        headers.append(("Content-Length", str(len(answer.body))))
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]
