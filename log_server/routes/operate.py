"""For operators: alive, ready, metrics."""

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from assay.log_server.problem import document
from assay.log_server.routes import services
from assay.log_server.service import now_ms

blueprint = Blueprint("operate", __name__)

_STALE_FACTOR = 3
"""A checkpoint older than this many re-cosigning intervals means that the witnesses have gone quiet."""


@blueprint.get("/livez")
def livez() -> Response:
    """The process answers."""
    return Response("ok\n", content_type="text/plain; charset=utf-8")


@blueprint.get("/readyz")
def readyz() -> Response:
    """The database answers and, where witnesses are asked for, they have cosigned lately."""
    age_s = _published_age_s()
    limit_s = _STALE_FACTOR * services.log().config.witnesses.recosign_interval_s
    if services.log().policy is not None and (age_s is None or age_s > limit_s):
        return document(
            503, code="quorum-unavailable", detail="no recent checkpoint has met the witness policy"
        )
    return Response("ok\n", content_type="text/plain; charset=utf-8")


@blueprint.get("/metrics")
def metrics() -> Response:
    """Prometheus text."""
    log = services.log()
    registry = CollectorRegistry()
    published = log.store.published()
    figures = {
        "assay_log_size": ("Leaves under the newest signed checkpoint", log.newest().size),
        "assay_log_published_size": (
            "Leaves under the newest published checkpoint",
            published.size if published else 0,
        ),
        "assay_log_queue_entries": ("Entries that wait to be sequenced", log.sequencer.queued),
        "assay_log_checkpoint_age_seconds": ("Since the newest cosignature", _published_age_s() or 0),
    }
    for name, (text, value) in figures.items():
        Gauge(name, text, ["origin"], registry=registry).labels(log.config.origin).set(value)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _published_age_s() -> float | None:
    """Seconds since the newest cosignature of the published checkpoint; None if there is none."""
    store = services.log().store
    published = store.published()
    if published is None:
        return None
    newest_s = max((each.time_s for each in store.cosignatures(published.size)), default=None)
    return None if newest_s is None else now_ms() / 1000 - newest_s
