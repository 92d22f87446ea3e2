"""The C2SP read side (c2sp.org/tlog-tiles): checkpoint, tiles, entry bundles, byte for byte."""

import hashlib

from flask import Blueprint, Response, request

from assay.log_server.problem import NotFoundError
from assay.log_server.routes import services
from assay.log_server.witnessing import cosigned_note
from assay.tlog import tiles
from assay.tlog.errors import MalformedError
from assay.tlog.tiles import TILE_WIDTH

blueprint = Blueprint("tiles", __name__)

_FULL = "public, max-age=31536000, immutable"
_PARTIAL = "public, max-age=60"


@blueprint.get("/checkpoint")
@blueprint.get("/api/v2/checkpoint")
def checkpoint() -> Response:
    """The newest checkpoint that meets the witness policy."""
    services.no_query()
    store = services.log().store
    newest = store.published()
    if newest is None:
        raise NotFoundError("no checkpoint has met the witness policy yet", code="not-published")
    note = cosigned_note(store, newest)
    response = Response(note, content_type="text/plain; charset=utf-8")
    response.headers["Cache-Control"] = "public, max-age=1, must-revalidate"
    response.set_etag(hashlib.sha256(note).hexdigest())
    response.make_conditional(request)
    return response


@blueprint.get("/tile/<path:rest>")
@blueprint.get("/api/v2/tile/<path:rest>")
def tile(rest: str) -> Response:
    """A tile or an entry bundle, full or partial; 404 beyond the newest signed checkpoint."""
    services.no_query()
    path = f"tile/{rest}"
    try:
        content, full = _bundle(path) if rest.startswith("entries/") else _tile(path)
    except MalformedError as error:
        raise NotFoundError(str(error)) from error
    response = Response(content, content_type="application/octet-stream")
    response.headers["Cache-Control"] = _FULL if full else _PARTIAL
    response.set_etag(hashlib.sha256(path.encode()).hexdigest())  # a path's bytes never change
    response.make_conditional(request)
    return response


def _tile(path: str) -> tuple[bytes, bool]:
    asked = tiles.parse_tile_path(path)
    content = services.log().store.tile(asked.level, asked.index)
    if content is None or len(content) < asked.width * 32:
        raise NotFoundError(f"{path}: the log has not grown that far")
    return content[: asked.width * 32], asked.width == TILE_WIDTH


def _bundle(path: str) -> tuple[bytes, bool]:
    asked = tiles.parse_bundle_path(path)
    start = asked.index * TILE_WIDTH
    entries = services.log().store.entries(start, start + asked.width)
    if len(entries) < asked.width:
        raise NotFoundError(f"{path}: the log has not grown that far")
    return tiles.format_bundle(entries), asked.width == TILE_WIDTH
