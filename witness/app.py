"""The witness over HTTP: the C2SP paths, and whether it is alive."""

import time

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from assay.tlog import witness_protocol
from assay.witness.core import ConflictError, RefusedError, SplitViewError, Witness

_log = structlog.get_logger("witness")

_TEXT = "text/plain; charset=utf-8"


def create_app(witness: Witness) -> Flask:
    """The WSGI application of one witness."""
    app = Flask(__name__, static_folder=None)

    @app.post("/add-checkpoint")
    def add_checkpoint() -> Response:
        body = request.stream.read(witness_protocol.MAX_BODY_SIZE + 1)
        if len(body) > witness_protocol.MAX_BODY_SIZE:
            raise RefusedError("the request is too long", status=413, code="too-large")
        return Response(witness.add_checkpoint(body, now_s=_now_s), content_type=_TEXT)

    @app.get("/<origin_hash>/checkpoint")
    def checkpoint(origin_hash: str) -> Response:
        return Response(witness.checkpoint(origin_hash), content_type=_TEXT)

    @app.get("/vkeys")
    def vkeys() -> Response:
        return Response("".join(f"{vkey}\n" for vkey in witness.vkeys), content_type=_TEXT)

    @app.get("/livez")
    def livez() -> Response:
        return Response("ok\n", content_type=_TEXT)

    app.register_error_handler(RefusedError, _refused)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _internal_error)
    app.after_request(_headers)
    return app


def _now_s() -> int:
    return int(time.time())


def _refused(error: RefusedError) -> Response:
    if isinstance(error, ConflictError):
        body = witness_protocol.format_size_body(error.size)
        return Response(body, status=409, content_type=witness_protocol.SIZE_CONTENT_TYPE)
    if isinstance(error, SplitViewError):
        evidence = {name: data.decode("utf-8") for name, data in error.evidence.items()}
        _log.error("the log shows two histories", **evidence)
    _log.info("refused", status=error.status, code=error.code, reason=str(error))
    return Response(f"{error}\n", status=error.status, content_type=_TEXT)


def _http_error(error: HTTPException) -> Response:
    headers = {"Allow": dict(error.get_headers())["Allow"]} if error.code == 405 else {}
    return Response(f"{error.name}\n", status=error.code, content_type=_TEXT, headers=headers)


def _internal_error(error: Exception) -> Response:
    # A fault of ours: signing stops, the log has the traceback, the other side a fixed sentence.
    _log.error("internal error", path=request.path, exc_info=error)
    return Response("the witness failed\n", status=500, content_type=_TEXT)


def _headers(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response
