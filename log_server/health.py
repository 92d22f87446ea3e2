"""Whether a log is well: what ``/readyz`` checks and ``/metrics`` shows of its state."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from assay.log_server.rows import StoredCheckpoint
from assay.log_server.service import LogService
from assay.log_server.witnessing import cosigned_note
from assay.tlog.checkpoint import verify_checkpoint
from assay.tlog.errors import LogError, StaleError
from assay.tlog.policy import verify_cosigned_checkpoint

_STALE_FACTOR = 3
"""A checkpoint older than this many re-cosigning intervals means that the witnesses have gone quiet."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    detail: str

    def to_json(self) -> dict[str, object]:
        """``{"name", "result", "detail"}``, the result ``pass`` or ``fail``."""
        return {"name": self.name, "result": "pass" if self.passed else "fail", "detail": self.detail}


def checks(log: LogService, *, now_ms: int) -> list[Check]:
    """Everything that must hold of a log in service."""
    tasks: dict[str, Callable[[LogService, int], str]] = {
        "database": _database,
        "sequencing": _sequencing,
        "checkpoint": _checkpoint,
        "quorum": _quorum,
    }
    return [_check(name, task, log, now_ms) for name, task in tasks.items()]


def gauges(log: LogService, *, now_ms: int) -> dict[str, tuple[str, float]]:
    """The log's state as figures: name -> help text and value."""
    published = log.store.published()
    newest = log.newest()
    unpublished_ms = 0 if published and published.size >= newest.size else now_ms - newest.signed_ms
    return {
        "assay_log_size": ("Leaves under the newest signed checkpoint", newest.size),
        "assay_log_published_size": (
            "Leaves under the newest published checkpoint",
            published.size if published else 0,
        ),
        "assay_log_queue_entries": (
            "Entries that wait to be sequenced in this process",
            log.sequencer.queued,
        ),
        "assay_log_checkpoint_age_seconds": (
            "Since the newest cosignature of the published checkpoint, or since it was signed",
            (now_ms - _fresh_ms(log, published)) / 1000 if published else -1,
        ),
        "assay_log_unpublished_seconds": (
            "How long the newest signed checkpoint has waited for its witnesses",
            max(0, unpublished_ms) / 1000,
        ),
        "assay_log_frozen": ("1 if the log takes no more entries", 0 if log.store.frozen_ms() is None else 1),
    }


def _check(name: str, task: Callable[[LogService, int], str], log: LogService, now_ms: int) -> Check:
    try:
        return Check(name, passed=True, detail=task(log, now_ms))
    except (LogError, SQLAlchemyError, OSError) as error:
        return Check(name, passed=False, detail=str(error).splitlines()[0])


def _database(log: LogService, now_ms: int) -> str:
    return f"size {log.store.latest().size}"


def _sequencing(log: LogService, now_ms: int) -> str:
    """Whether what was signed last could be committed and anchored; a frozen log has nothing to sign."""
    log.sequencer.verify_working()
    frozen_ms = log.store.frozen_ms()
    return "commits" if frozen_ms is None else f"frozen since {frozen_ms}"


def _checkpoint(log: LogService, now_ms: int) -> str:
    """The newest published checkpoint is signed by this log's keys, and fresh where witnesses make it so."""
    published = _published(log)
    verify_checkpoint(published.note, log_keys=log.log_keys)
    if log.policy is not None:
        limit_ms = _STALE_FACTOR * log.config.witnesses.recosign_interval_s * 1000
        age_ms = now_ms - _fresh_ms(log, published)
        if age_ms > limit_ms:
            raise StaleError(f"the newest cosignature is {age_ms // 1000} s old")
    return f"size {published.size}"


def _quorum(log: LogService, now_ms: int) -> str:
    """The published checkpoint's cosignatures verify and meet the policy."""
    if log.policy is None:
        return "none is asked for"
    cosigned = verify_cosigned_checkpoint(cosigned_note(log.store, _published(log)), log.policy)
    return f"{len(cosigned.cosignatures)} cosignatures"


def _published(log: LogService) -> StoredCheckpoint:
    published = log.store.published()
    if published is None:
        raise StaleError("no checkpoint has met the witness policy yet")
    return published


def _fresh_ms(log: LogService, published: StoredCheckpoint) -> int:
    times = [each.time_s * 1000 for each in log.store.cosignatures(published.size)]
    return max(times, default=published.signed_ms)
