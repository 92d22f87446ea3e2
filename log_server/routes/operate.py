"""For operators: alive, ready, healthy, counted."""

from flask import Blueprint, Response, request
from prometheus_client import CONTENT_TYPE_LATEST

from assay.log_server import health, metrics, openapi
from assay.log_server.problem import RETRY_AFTER_S
from assay.log_server.routes import services
from assay.log_server.routes.services import json_response
from assay.log_server.service import now_ms

blueprint = Blueprint("operate", __name__)


@blueprint.get("/livez")
def livez() -> Response:
    """The process answers."""
    services.no_query()
    return Response("ok\n", content_type="text/plain; charset=utf-8")


@blueprint.get("/readyz")
@blueprint.get("/health")
def readyz() -> Response:
    """Whether the log does what it is for: 200 or 503, and each check with its result."""
    services.no_query()
    report = health.report(services.log(), now_ms=now_ms())
    response = json_response(report.to_json(), status=200 if report.ready else 503)
    response.headers["Cache-Control"] = "no-store"
    if not report.ready:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


@blueprint.get("/openapi.json")
def description() -> Response:
    """The OpenAPI description of this very interface."""
    services.no_query()
    log = services.log()
    return json_response(openapi.document(origin=log.config.origin, prefix=request.script_root))


@blueprint.get("/metrics")
def prometheus() -> Response:
    """Prometheus text."""
    services.no_query()
    log = services.log()
    text = metrics.exposition(health.gauges(log, now_ms=now_ms()), origin=log.config.origin)
    return Response(text, content_type=CONTENT_TYPE_LATEST)
