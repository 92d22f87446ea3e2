"""Whether a log is well: what ``/readyz`` checks and ``/metrics`` shows of its state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from assay.log_server.metrics import Figure
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.service import LogService
from assay.log_server.witnessing import cosigned_note
from assay.tlog.checkpoint import verify_checkpoint
from assay.tlog.errors import LogError, StaleError
from assay.tlog.policy import Policy, verify_cosigned_checkpoint

_STALE_FACTOR = 3
"""A quorum older than this many re-cosigning intervals means that the witnesses have gone quiet."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    detail: str

    def to_json(self) -> dict[str, object]:
        """``{"name", "result", "detail"}``, the result ``pass`` or ``fail``."""
        return {"name": self.name, "result": "pass" if self.passed else "fail", "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one log, and since when it is frozen (Unix ms), which is no fault."""

    checks: tuple[Check, ...]
    frozen_ms: int | None

    @property
    def ready(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, object]:
        """``{"ready", "frozen", "checks"}``."""
        checks = [check.to_json() for check in self.checks]
        return {"ready": self.ready, "frozen": self.frozen_ms, "checks": checks}


def report(log: LogService, *, now_ms: int) -> Report:
    """Check everything that must hold of a log in service."""
    tasks: dict[str, Callable[[LogService, int], str]] = {
        "database": _database,
        "sequencing": _sequencing,
        "checkpoint": _checkpoint,
        "quorum": _quorum,
    }
    checks = tuple(_check(name, task, log, now_ms) for name, task in tasks.items())
    try:
        frozen_ms = log.store.frozen_ms()
    except SQLAlchemyError:
        frozen_ms = None  # the check of the database has failed and says so
    return Report(checks, frozen_ms)


def gauges(log: LogService, *, now_ms: int) -> list[Figure]:
    """The log's state as figures."""
    published = log.store.published()
    newest = log.newest()
    unpublished_ms = 0 if published and published.size >= newest.size else now_ms - newest.signed_ms
    return [
        Figure("assay_log_size", "Leaves under the newest signed checkpoint", newest.size),
        Figure(
            "assay_log_published_size",
            "Leaves under the newest published checkpoint",
            published.size if published else 0,
        ),
        Figure(
            "assay_log_queue_entries",
            "Entries that wait to be sequenced in this process",
            log.sequencer.queued,
        ),
        Figure(
            "assay_log_checkpoint_age_seconds",
            "Since a quorum cosigned the published checkpoint last, or since it was signed; -1: never published",
            _age_s(log, published, now_ms=now_ms),
        ),
        Figure(
            "assay_log_unpublished_seconds",
            "How long the newest signed checkpoint has waited for its witnesses",
            max(0, unpublished_ms) / 1000,
        ),
        Figure(
            "assay_log_frozen",
            "1 if the log takes no more entries",
            0 if log.store.frozen_ms() is None else 1,
        ),
        *_cosigned(log, newest, published),
    ]


def _cosigned(log: LogService, newest: StoredCheckpoint, published: StoredCheckpoint | None) -> list[Figure]:
    """When each witness of the policy cosigned last, as far as the newest checkpoints tell; 0 if they do not."""
    last_s = {witness.key.name: 0 for witness in (log.policy.witnesses if log.policy else ())}
    for size in {newest.size, published.size if published else newest.size}:
        for kept in log.store.cosignatures(size):
            if kept.name in last_s:
                last_s[kept.name] = max(last_s[kept.name], kept.time_s)
    text = "When the witness cosigned last, Unix time"
    return [
        Figure("assay_log_witness_cosigned_timestamp_seconds", text, at, name) for name, at in last_s.items()
    ]


def _check(name: str, task: Callable[[LogService, int], str], log: LogService, now_ms: int) -> Check:
    try:
        return Check(name, passed=True, detail=task(log, now_ms))
    except (LogError, SQLAlchemyError, OSError, LookupError) as error:
        return Check(name, passed=False, detail=str(error).partition("\n")[0])


def _database(log: LogService, now_ms: int) -> str:
    return f"size {log.store.latest().size}"


def _sequencing(log: LogService, now_ms: int) -> str:
    """Whether what was signed last could be committed and anchored; a frozen log has nothing to sign."""
    log.sequencer.verify_working()
    frozen_ms = log.store.frozen_ms()
    return "commits" if frozen_ms is None else f"frozen since {frozen_ms}"


def _checkpoint(log: LogService, now_ms: int) -> str:
    """The newest published checkpoint is signed by this log's keys."""
    published = _published(log)
    verify_checkpoint(published.note, log_keys=log.log_keys)
    return f"size {published.size}"


def _quorum(log: LogService, now_ms: int) -> str:
    """The published checkpoint's cosignatures verify, and fresh ones of them meet the policy."""
    if log.policy is None:
        return "none is asked for"
    cosigned = verify_cosigned_checkpoint(cosigned_note(log.store, _published(log)), log.policy)
    times = {(each.key.name, each.key.key_id): each.time_s for each in cosigned.cosignatures}
    age_s = now_ms / 1000 - freshest_quorum_s(log.policy, times)
    if age_s > _STALE_FACTOR * log.config.witnesses.recosign_interval_s:
        raise StaleError(f"the newest quorum is {age_s:.0f} s old")
    return f"{len(times)} cosignatures"


def freshest_quorum_s(policy: Policy, times: Mapping[tuple[str, bytes], int]) -> int:
    """The latest time such that the witnesses who cosigned then or later are a quorum; 0 if there is none.

    One busy witness does not make a checkpoint fresh when the policy asks for two.

    Args:
        policy: whose quorum.
        times: name and key id of each cosignature -> its time (Unix s).
    """
    by_witness = {
        witness.name: times[witness.key.name, witness.key.key_id]
        for witness in policy.witnesses
        if (witness.key.name, witness.key.key_id) in times
    }
    for limit_s in sorted(set(by_witness.values()), reverse=True):
        if policy.is_quorum({name for name, time_s in by_witness.items() if time_s >= limit_s}):
            return limit_s
    return 0


def _published(log: LogService) -> StoredCheckpoint:
    published = log.store.published()
    if published is None:
        raise StaleError("no checkpoint has met the witness policy yet")
    return published


def _age_s(log: LogService, published: StoredCheckpoint | None, *, now_ms: int) -> float:
    if published is None:
        return -1
    if log.policy is None:
        return (now_ms - published.signed_ms) / 1000
    kept = log.store.cosignatures(published.size)
    return now_ms / 1000 - freshest_quorum_s(
        log.policy, {(each.name, each.key_id): each.time_s for each in kept}
    )
