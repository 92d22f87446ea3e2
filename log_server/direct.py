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

from assay.log_server import faults, headers
from assay.log_server.headers import CORS, IMMUTABLE, PREFLIGHT, SECURITY, SUBMIT_PATH
from assay.log_server.problem import MethodError, NotFoundError, problem
from assay.log_server.service import LogService
from assay.log_server.store import PublishedMark
from assay.log_server.witnessing import cosigned_note
from assay.tlog import tiles
from assay.tlog.errors import LogError, MalformedError
from assay.tlog.tiles import TILE_WIDTH

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_BODY_SIZE = 256 * 1024

_READ = {**SECURITY, **CORS}
_SUBMITTED = {**SECURITY, "Content-Type": "application/json"}
_FULL = IMMUTABLE
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
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        answer = self._route(method, path)
        if answer is None:
            return self._app(environ, start_response)
        try:
            found = answer(environ)
        except Exception as error:  # noqa: BLE001  # the last resort: nothing leaves without an answer
            refusal = error if isinstance(error, LogError) else faults.refusal_of(error)
            return headers.finish(problem(refusal), method=method, path=path)(environ, start_response)
        return _send(found, environ, start_response)

    def _route(self, method: str, path: str) -> "Callable[[WSGIEnvironment], Answer] | None":
        if path == SUBMIT_PATH:
            return self._submit if method == "POST" else None
        path = path.removeprefix("/api/v2")
        if path != "/checkpoint" and not path.startswith("/tile/"):
            return None
        if method in ("GET", "HEAD"):
            return self._newest if path == "/checkpoint" else self._tile
        return _preflight if method == "OPTIONS" else _only_read

    def _submit(self, environ: "WSGIEnvironment") -> Answer:
        """Take one entry in: 201 if it is new, 200 if it was there."""
        with self._log.open_for_writes():
            wait = query(environ, ("wait",)).get("wait", "integrated")
            if wait not in ("integrated", "witnessed"):
                raise MalformedError("wait: neither 'integrated' nor 'witnessed'", code="query")
            data = read_body(environ, limit=MAX_BODY_SIZE)
            submitted = self._log.submit(data, witnessed=wait == "witnessed")
        return Answer(201 if submitted.new else 200, orjson.dumps(submitted.to_json()) + b"\n", _SUBMITTED)

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
    return Answer(204, b"", {**_READ, **PREFLIGHT, "Allow": "GET, HEAD, OPTIONS"})


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
        MalformedError: longer than ``limit`` bytes (code ``too-large``), of which no more than that is read;
            or cut short (code ``truncated``), for half of a batch is not what somebody meant to submit.
    """
    length = environ.get("CONTENT_LENGTH") or ""
    if length.isdigit() and int(length) > limit:
        raise MalformedError(f"a body of more than {limit} bytes", code="too-large")
    if not length and not environ.get("wsgi.input_terminated"):
        return b""
    data: bytes = environ["wsgi.input"].read(int(length) if length.isdigit() else limit + 1)
    if len(data) > limit:
        raise MalformedError(f"a body of more than {limit} bytes", code="too-large")
    if length.isdigit() and len(data) < int(length):
        raise MalformedError(f"the body ends after {len(data)} of {length} bytes", code="truncated")
    return data


def _readable(content: bytes, *, kind: str, caching: str, tag: str) -> Answer:
    fields = {**_READ, "Content-Type": kind, "Cache-Control": caching, "ETag": f'"{tag}"'}
    return Answer(200, content, fields)


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
    fields = list(answer.headers.items())
    if answer.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        fields.append(("Content-Length", str(len(answer.body))))
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", fields)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]
