"""``POST /api/v2/log/entries``: Rekor v2's write path, for Sigstore's own clients.

Nothing here looks like the rest of our interface: answers are protobuf messages as JSON, and refusals are gRPC's
``{"code", "message", "details"}`` under the HTTP status that grpc-gateway gives the code.
"""

from http import HTTPStatus

from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from assay.attest import entry, transparency_entry
from assay.log_server import faults, problem, rekor
from assay.log_server.routes import services
from assay.log_server.routes.services import json_response
from assay.log_server.service import LogService, Submitted
from assay.tlog import tlog_proof
from assay.tlog.errors import LogError, MalformedError, UntrustedError

PATH = "/api/v2/log/entries"
WITNESSED_TIMEOUT_S = 2.0
"""How long an answer waits for witnesses. Clients give up after 5 s, some of them, and then submit again."""

blueprint = Blueprint("rekor", __name__)

_INTERNAL = 13
_GRPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 413: 3, 415: 3, 429: 8, 500: _INTERNAL, 503: 14}
"""HTTP status -> google.rpc.Code: INVALID_ARGUMENT, UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND, UNIMPLEMENTED,
RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE."""

_FORBIDDEN = frozenset({"enclave-key", "kind-not-admitted"})
"""What this log does not take from anyone; every other refusal is of what the request says."""

_FROZEN = "This log has been frozen, please switch to the latest log."


@blueprint.post(PATH)
def create_entry() -> Response:
    """Log a signature and answer with its proof; the same entry again gets 201 and a proof again."""
    log = services.log()
    with log.open_for_writes():
        services.no_query()
        data = request.stream.read(rekor.MAX_REQUEST_SIZE + 1)
        if len(data) > rekor.MAX_REQUEST_SIZE:
            raise MalformedError(f"a body of more than {rekor.MAX_REQUEST_SIZE} bytes", code="too-large")
        submitted = log.submit(entry.format_entry(rekor.parse_request(data)), witnessed=False)
    proof = tlog_proof.parse_proof(_proof(log, submitted).encode())
    answer = transparency_entry.transparency_log_entry(submitted.leaf, proof, keys=log.log_keys)
    return json_response(answer, status=HTTPStatus.CREATED)


def _proof(log: LogService, submitted: Submitted) -> str:
    """Against the first published checkpoint that covers the entry or, if witnesses are slow, the integrated one."""
    published = log.wait_published(submitted.index, timeout_s=WITNESSED_TIMEOUT_S)
    return submitted.proof if published is None else log.prove(submitted.index, published)


@blueprint.errorhandler(LogError)
def refused(error: LogError) -> Response:
    """A refusal as gRPC JSON."""
    status = problem.status_of(error)
    if isinstance(error, UntrustedError) and error.code not in _FORBIDDEN:
        status = 400 if status == 403 else status
    response = status_document(status, _FROZEN if status == 405 else str(error))
    response.headers.update(problem.headers_of(error, status))
    if status == 405:
        response.headers["Allow"] = "OPTIONS"
    return response


@blueprint.errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    """A refusal of the framework's, as gRPC JSON."""
    response = status_document(error.code or 500, error.description or error.name)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


@blueprint.errorhandler(Exception)
def internal_error(error: Exception) -> Response:
    """A fault of ours: the operator's log has the traceback, the other side a fixed sentence."""
    return refused(faults.refusal_of(error))


def status_document(status: int, message: str) -> Response:
    """A google.rpc.Status as grpc-gateway writes it."""
    code = _GRPC_CODES.get(status, _INTERNAL if status >= 500 else 3)
    response = json_response({"code": code, "message": message, "details": []}, status=status)
    if status in (429, 503):
        response.headers["Retry-After"] = str(problem.RETRY_AFTER_S)
    return response
