"""The application: the one place that wires routes to a log."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flask import Flask, Response, current_app, render_template, request
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from assay.log_server import faults, headers
from assay.log_server.direct import Direct
from assay.log_server.problem import NotFoundError, document, problem
from assay.log_server.routes import batch, entries, operate, pages, rekor, services
from assay.log_server.service import LogService
from assay.log_server.tokens import TokenFile
from assay.tlog.errors import LogError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_HTTP_CODES = {404: "not-found", 405: "method", 413: "too-large"}


def create_app(log: LogService, *, tokens: TokenFile | None = None) -> Flask:
    """The WSGI application of one log, whose threads the caller starts and stops."""
    app = Flask(__name__)
    app.url_map.merge_slashes = False  # one address for each thing, and no redirects
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    app.extensions[services.EXTENSION] = log
    app.extensions[services.TOKENS] = tokens
    app.context_processor(lambda: {"prefix": request.script_root})
    for part in (batch, entries, rekor, operate, pages):
        app.register_blueprint(part.blueprint)
    app.register_error_handler(LogError, _refused)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _internal_error)
    app.before_request(_options)
    app.after_request(_headers)
    app.wsgi_app = Direct(app.wsgi_app, log)  # type: ignore[method-assign]
    return app


def mount(logs: Mapping[str, "WSGIApplication"]) -> "WSGIApplication":
    """The application of several logs: path prefix -> log; the one without a prefix answers the rest."""
    if set(logs) == {""}:
        return logs[""]
    rest = {prefix: log for prefix, log in logs.items() if prefix}
    return DispatcherMiddleware(logs.get("", NotFound()), rest)


def _wants_page() -> bool:
    """Whether a person's browser asked for a page; programs get problem documents."""
    machine = request.path.startswith(("/api/", "/tile/", "/checkpoint")) or request.path.endswith(".json")
    return request.method == "GET" and not machine and "text/html" in request.accept_mimetypes.values()


def _refused(error: LogError) -> Response:
    response = problem(error)
    if not _wants_page() or response.status_code == 503:
        return response
    title = "Not found" if isinstance(error, NotFoundError) else "That does not work"
    return _page(response.status_code, title, str(error))


def _http_error(error: HTTPException) -> Response:
    if request.path == rekor.PATH:  # no route was found, so that the blueprint's handler is not asked
        return rekor.http_error(error)
    status = error.code or 500
    detail = error.description or "refused"
    if _wants_page():
        return _page(status, error.name, detail)
    response = document(status, code=_HTTP_CODES.get(status, "http"), detail=detail)
    if status == 405:
        found = dict(error.get_headers()).get("Allow", "GET")
        response.headers["Allow"] = headers.allowed(request.path, set(found.split(", ")))
    return response


def _internal_error(error: Exception) -> Response:
    return _refused(faults.refusal_of(error))


def _options() -> Response | None:
    """Answer ``OPTIONS``, also a browser's question whether it may read this (CORS)."""
    if request.method != "OPTIONS" or request.routing_exception is not None:
        return None
    found = current_app.make_default_options_response().allow
    response = Response(status=204)
    del response.headers["Content-Type"]
    response.headers["Allow"] = headers.allowed(request.path, {str(method) for method in found})
    return response


def _page(status: int, title: str, detail: str) -> Response:
    origin = services.log().config.origin
    return Response(
        render_template("error.html", origin=origin, title=title, detail=detail),
        status=status,
        content_type="text/html; charset=utf-8",
    )


def _headers(response: Response) -> Response:
    return headers.finish(response, method=request.method, path=request.path)
