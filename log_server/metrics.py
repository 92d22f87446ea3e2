"""What the server counts, for Prometheus.

Several worker processes count in files of one directory, which the library sums at a scrape; the parent makes
that directory anew for each run. A single process counts in memory. Labels are bounded: origins, routes,
statuses, kinds and our own codes, never what a client made up.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import REGISTRY as _IN_MEMORY
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where worker processes count together; the library reads it when it is imported."""

_SIZES = (1, 4, 16, 64, 256, 1024, 4096)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_BATCHES = Counter("assay_log_batches", "Batches committed", ["origin"])
_BATCH_ENTRIES = Histogram("assay_log_batch_entries", "Entries of a batch", ["origin"], buckets=_SIZES)
_COMMIT_SECONDS = Histogram(
    "assay_log_commit_seconds", "From asking for the tree's lock to the anchor", ["origin"], buckets=_SECONDS
)
_SUBMISSIONS = Counter(
    "assay_log_submissions", "Submissions, by what became of them", ["origin", "kind", "result"]
)
_PUSHED_BACK = Counter("assay_log_pushed_back", "Submissions that found the queue full", ["origin"])
_WITNESS_ANSWERS = Counter("assay_log_witness_answers", "Witnesses' answers", ["origin", "witness", "result"])
_PUBLISH_SECONDS = Histogram(
    "assay_log_publish_seconds", "From signing a checkpoint to its quorum", ["origin"], buckets=_SECONDS
)
# The time only grows, so the newest of all workers is the greatest, also beside a dead one's file.
_COLLATERAL_EXPIRES = Gauge(
    "assay_collateral_expires_seconds",
    "Unix time at which the first part of a platform family's collateral expires",
    ["root", "tee", "fmspc"],
    multiprocess_mode="max",
)
_REQUESTS = Counter("assay_http_requests", "HTTP requests", ["route", "method", "status"])
_REQUEST_SECONDS = Histogram("assay_http_request_seconds", "HTTP requests", ["route"], buckets=_SECONDS)


class Metrics:
    """One log's counters."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._batches = _BATCHES.labels(origin)
        self._entries = _BATCH_ENTRIES.labels(origin)
        self._seconds = _COMMIT_SECONDS.labels(origin)
        self._pushed_back = _PUSHED_BACK.labels(origin)

    def batch_committed(self, entries: int, seconds: float) -> None:
        """A batch is durable."""
        self._batches.inc()
        self._entries.observe(entries)
        self._seconds.observe(seconds)

    def pushed_back(self) -> None:
        """An entry found the queue full."""
        self._pushed_back.inc()

    def submitted(self, kind: str, result: str) -> None:
        """An entry of a kind is ``new`` or a ``duplicate``; or it was refused, with that code and no kind."""
        _SUBMISSIONS.labels(self._origin, kind, result).inc()

    def witness_answered(self, name: str, result: str) -> None:
        """A witness cosigned, or why not."""
        _WITNESS_ANSWERS.labels(self._origin, name, result).inc()

    def published(self, size: int, seconds: float) -> None:
        """A checkpoint met its quorum."""
        _PUBLISH_SECONDS.labels(self._origin).observe(seconds)


@dataclass(frozen=True, slots=True)
class Figure:
    """A gauge of one log as it is now; of one of its witnesses, if that has a name."""

    name: str
    text: str
    value: float
    witness: str | None = None


class _Gauges(Collector):
    """Figures that are true at the scrape; only counters are kept."""

    def __init__(self, figures: Sequence[Figure], origin: str) -> None:
        self._figures = figures
        self._origin = origin

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family a figure, and the version."""
        families: dict[str, GaugeMetricFamily] = {}
        for figure in self._figures:
            labels = ["origin"] if figure.witness is None else ["origin", "witness"]
            made = GaugeMetricFamily(figure.name, figure.text, labels=labels)
            values = [self._origin] if figure.witness is None else [self._origin, figure.witness]
            families.setdefault(figure.name, made).add_metric(values, figure.value)
        yield from families.values()
        build = GaugeMetricFamily("assay_build_info", "The version that runs", labels=["version"])
        build.add_metric([version("assay-log")], 1)
        yield build


def collateral_used(root: str, *, tee: str, fmspc: str, expires_s: int) -> None:
    """Collateral that verified was given out; families are as many as platforms under the root have registered."""
    _COLLATERAL_EXPIRES.labels(root, tee, fmspc).set(expires_s)


def request_answered(route: str, method: str, status: int, seconds: float) -> None:
    """A request was answered."""
    _REQUESTS.labels(route, method, str(status)).inc()
    _REQUEST_SECONDS.labels(route).observe(seconds)


def exposition(gauges: Sequence[Figure], *, origin: str) -> bytes:
    """The Prometheus text: everything counted, by all processes, and gauges as they are now.

    Args:
        gauges: the log's state.
        origin: the label of the gauges.
    """
    now = CollectorRegistry()
    now.register(_Gauges(gauges, origin))
    counted = _IN_MEMORY
    if DIRECTORY_VARIABLE in os.environ:
        counted = CollectorRegistry()
        multiprocess.MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    return generate_latest(now) + generate_latest(counted)
