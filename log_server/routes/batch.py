"""``POST /api/v1/entries/batch``: many entries in one request and one commit, each with its own answer.

NDJSON in, an entry a line; NDJSON out, a result a line in the same order: ``{"status", "index", "leaf_hash"}``,
or ``{"status", "code", "detail"}`` for an entry that is refused, which harms no other.
"""

import orjson
from flask import Blueprint, Response, request

from assay.log_server.direct import read_body
from assay.log_server.problem import status_of
from assay.log_server.routes import services
from assay.log_server.service import BatchItem
from assay.tlog.errors import LogError, MalformedError

blueprint = Blueprint("batch", __name__)

MAX_ENTRIES = 4096
MAX_BODY_SIZE = 32 * 1024 * 1024
CONTENT_TYPE = "application/x-ndjson"


@blueprint.post("/api/v1/entries/batch")
def submit_batch() -> Response:
    """Take many entries in; 200 whenever each of them got its answer."""
    services.log().verify_open()
    services.no_query()
    lines = read_body(request.environ, limit=MAX_BODY_SIZE).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not 1 <= len(lines) <= MAX_ENTRIES:
        raise MalformedError(f"a batch of {len(lines)} entries, not 1 to {MAX_ENTRIES}", code="batch-size")
    results = services.log().submit_many(lines)
    return Response(b"".join(map(_line, results)), content_type=CONTENT_TYPE)


def _line(result: BatchItem | LogError) -> bytes:
    if isinstance(result, LogError):
        value: dict[str, object] = {
            "status": status_of(result),
            "code": result.code,
            "detail": str(result),
        }
    else:
        status = 201 if result.new else 200
        value = {"status": status, "index": result.index, "leaf_hash": result.leaf_hash}
    return orjson.dumps(value) + b"\n"
