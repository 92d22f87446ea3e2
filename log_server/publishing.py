"""Publishing: have each signed checkpoint cosigned, and publish it once the witness policy is met.

A round fixes one checkpoint. Every witness is asked by a thread of its own, so that a slow or dead one delays
neither the others nor the log; one more thread begins rounds, publishes and stores. When enough fresh
cosignatures are there the round waits a moment for more, and is published; what comes later is added, also
after the next round has begun. While a round is under way the log grows, and the next round offers the newest
checkpoint; a round that finds no quorum in its time gives way to a newer one (:mod:`~assay.log_server.rounds`).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from assay.log_server.config import WitnessSection
from assay.log_server.rounds import Backoff, Round
from assay.log_server.rows import StoredCheckpoint, StoredCosignature
from assay.log_server.store import Store
from assay.log_server.witnessing import Kept, WitnessClient
from assay.tlog.checkpoint import Checkpoint
from assay.tlog.errors import LogError
from assay.tlog.policy import Policy

_log = structlog.get_logger("publishing")

_POLL_S = 0.05
"""How often the newest checkpoint is looked for, which another process may have signed."""

_WAITERS_POLL_S = 0.025
"""How often a publication is looked for while somebody waits for one, which another process may have made."""


class Observer(Protocol):
    """Who counts what witnesses answer."""

    def witness_answered(self, name: str, result: str) -> None:
        """A witness ``cosigned``, or the code of what was wrong."""
        ...

    def published(self, size: int, seconds: float) -> None:
        """A checkpoint met its quorum, that long after it was signed."""
        ...


class Publications:
    """Lets threads wait for a publication, whichever process makes it.

    While somebody waits one thread polls the database for all of them; while nobody waits nothing is asked.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._size = -1
        self._waiting = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def wait_for(self, size: int, *, timeout_s: float) -> StoredCheckpoint | None:
        """The smallest published checkpoint that covers ``size`` leaves, or None when the time is up."""
        with self._changed:
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._poll, name="publications", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._size >= size or self._stopping, timeout=timeout_s)
            finally:
                self._waiting -= 1
        return self._store.published(covering=size)

    def made(self, size: int) -> None:
        """This process published a checkpoint."""
        with self._changed:
            self._size = max(self._size, size)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let everybody go and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _poll(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
            self._look()
            time.sleep(_WAITERS_POLL_S)

    def _look(self) -> None:
        try:
            published = self._store.published()
        except (SQLAlchemyError, OSError) as error:
            # Whoever waits goes on waiting: a database that is gone comes back.
            _log.warning("publications not seen", reason=_first_line(error))
            return
        if published is not None:
            self.made(published.size)


@dataclass(eq=False)
class _Desk:
    """One witness at the publisher's: its client, its failures, and the last round that it answered."""

    client: WitnessClient
    backoff: Backoff
    answered: Round | None = None

    @property
    def url(self) -> str:
        return self.client.witness.url


class Publisher:
    """The threads that have checkpoints cosigned and publish them; may be started and stopped again.

    Args:
        store: where cosignatures are kept.
        policy: witnesses and quorum.
        clients: one for each witness of the policy.
        newest: the newest checkpoint that may leave the process.
        limits: intervals.
        now_ms: the clock.
        publications: told of each publication.
        observer: counts.
    """

    def __init__(
        self,
        *,
        store: Store,
        policy: Policy,
        clients: Sequence[WitnessClient],
        newest: Callable[[], StoredCheckpoint],
        limits: WitnessSection,
        now_ms: Callable[[], int],
        publications: Publications,
        observer: Observer,
    ) -> None:
        self._store = store
        self._policy = policy
        self._clients = clients
        self._newest = newest
        self._limits = limits
        self._now_ms = now_ms
        self._publications = publications
        self._observer = observer
        self._changed = threading.Condition()
        self._news = False
        self._stopping = False
        self._hurried_s: float | None = None
        self._seen_size = 0
        self._published_size = 0
        self._current: Round | None = None
        self._rounds: list[Round] = []
        self._desks: list[_Desk] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin with the newest checkpoint, whether or not it was published before."""
        self._stopping = False
        self._current, self._rounds = None, []
        for client in self._clients:
            client.recall()  # another process may have had the role meanwhile
        self._desks = [self._desk(client) for client in self._clients]
        self._threads = [threading.Thread(target=self._run, name="publisher", daemon=True)]
        self._threads += [
            threading.Thread(target=self._attend, args=(desk,), name=f"witness {desk.url}", daemon=True)
            for desk in self._desks
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the requests under way."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def offer(self) -> None:
        """There is a new checkpoint, or somebody waits for one: do not sleep on, not even after failures."""
        with self._changed:
            self._hurried_s = time.monotonic()
            self._tell()

    def _desk(self, client: WitnessClient) -> _Desk:
        limits = self._limits
        return _Desk(
            client, Backoff(first_s=limits.retry_interval_s, longest_s=limits.recosign_interval_s / 2)
        )

    # --- the publisher's thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  # no check: a database that is gone comes back
                _log.error("publishing failed", reason=_first_line(error))
                self._sleep(self._limits.retry_interval_s)

    def _step(self) -> None:
        """Whatever is to be done now; then wait for news, a round's moment, or the next look."""
        with self._changed:
            self._news = False
        newest = self._newest()
        with self._changed:
            self._take_up(newest, now_s=time.monotonic())
            rounds = list(self._rounds)
        for each in rounds:
            self._settle(each)
        with self._changed:
            self._rounds = [each for each in self._rounds if self._is_open(each)]
            self._changed.wait_for(lambda: self._news or self._stopping, timeout=self._pause_s())

    def _take_up(self, newest: StoredCheckpoint, *, now_s: float) -> None:
        """Begin a round if it is time. Whichever process made the log grow, somebody may wait there."""
        if newest.size > self._seen_size:
            self._seen_size = newest.size
            self._hurried_s = now_s
            self._changed.notify_all()
        current = self._current
        if current is None or current.is_over(newest_size=newest.size, now_s=now_s, limits=self._limits):
            checkpoint = Checkpoint(self._policy.logs[0].key.name, newest.size, newest.root)
            expected = {desk.url for desk in self._desks if desk.backoff.ready_s(hurried_s=None) <= now_s}
            self._current = Round(newest, checkpoint, now_s, expected)
            self._rounds.append(self._current)
            self._changed.notify_all()

    def _settle(self, each: Round) -> None:
        """Publish a round that is due; store what came for one that is published, or given up."""
        with self._changed:
            fresh = each.kept[each.stored :]
            due_s = each.due_s(grace_s=self._limits.grace_s)
            superseded = each is not self._current
        if superseded:
            publish = due_s is not None and each.signed.size > self._published_size
        else:
            publish = due_s is not None and due_s <= time.monotonic()
        if not publish and not (fresh and (each.published or superseded)):
            return
        self._store.keep_cosignatures(
            each.signed.size,
            [_stored(kept) for kept in fresh],
            published_ms=self._now_ms() if publish else None,
        )
        each.stored += len(fresh)
        if publish:
            each.published = True
            self._tell_published(each.signed)

    def _tell_published(self, signed: StoredCheckpoint) -> None:
        self._published_size = max(self._published_size, signed.size)
        if signed.published_ms is None:  # and not cosigned again
            seconds = max(0.0, (self._now_ms() - signed.signed_ms) / 1000)
            self._observer.published(signed.size, seconds)
        self._publications.made(signed.size)

    def _is_open(self, each: Round) -> bool:
        """Whether anything can come of a round: it is the current one, or an answer is under way or not stored."""
        return each is self._current or bool(each.trying) or each.stored < len(each.kept)

    def _pause_s(self) -> float:
        due_s = self._current.due_s(grace_s=self._limits.grace_s) if self._current else None
        return _POLL_S if due_s is None else min(_POLL_S, max(0.0, due_s - time.monotonic()))

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, timeout=seconds)

    def _tell(self) -> None:
        self._news = True
        self._changed.notify_all()

    # --- a thread for each witness

    def _attend(self, desk: _Desk) -> None:
        while (current := self._next_round(desk)) is not None:
            kept = self._ask(desk, current)
            now_s = time.monotonic()
            with self._changed:
                if kept:
                    desk.answered = current
                    desk.backoff.succeeded()
                else:
                    desk.backoff.failed(now_s=now_s)
                current.end_try(desk.url, kept, policy=self._policy, now_s=now_s)
                self._tell()

    def _next_round(self, desk: _Desk) -> Round | None:
        """Wait for a round that this witness has not answered, and after failures for the time to try again."""
        with self._changed:
            while not self._stopping:
                current = self._current
                if current is None or current is desk.answered:
                    self._changed.wait()
                    continue
                hurried_s = self._hurried_s if current.is_short else None
                wait_s = desk.backoff.ready_s(hurried_s=hurried_s) - time.monotonic()
                if wait_s <= 0:
                    current.begin_try(desk.url)
                    return current
                self._changed.wait(wait_s)
        return None

    def _ask(self, desk: _Desk, current: Round) -> list[Kept]:
        """A witness's cosignatures; none if it fails, however it fails."""
        try:
            kept = desk.client.cosign(current.signed, current.checkpoint, now_ms=self._now_ms())
        except LogError as error:
            self._failed(desk, current, code=error.code, error=error)
            return []
        except Exception as error:  # noqa: BLE001  # no check: nothing is kept, and this thread must go on asking
            self._failed(desk, current, code="internal", error=error)
            return []
        self._observer.witness_answered(desk.url, "cosigned")
        return kept

    def _failed(self, desk: _Desk, current: Round, *, code: str, error: Exception) -> None:
        self._observer.witness_answered(desk.url, code)
        _log.warning(
            "no cosignature", witness=desk.url, size=current.signed.size, code=code, reason=_first_line(error)
        )


def _stored(kept: Kept) -> StoredCosignature:
    key = kept.cosignature.key
    return StoredCosignature(key.name, key.key_id, kept.signature.line, kept.cosignature.time_s)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
