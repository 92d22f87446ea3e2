"""Publishing: have each signed checkpoint cosigned, and publish it once the witness policy is met.

A round fixes one checkpoint. Every witness is asked by a thread of its own, so that a slow or dead one delays
neither the others nor the log. When enough fresh cosignatures are there the round waits a moment for more, and
publishes; what comes later is added. While a round is under way the log grows, and the next round offers the
newest checkpoint; a round that finds no quorum in its time gives way to a newer checkpoint, if there is one.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from assay.log_server.config import WitnessSection
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
            published = self._store.published()
            if published is not None:
                self.made(published.size)
            time.sleep(_WAITERS_POLL_S)


@dataclass(eq=False)
class _Round:
    """One checkpoint on its way to a quorum."""

    signed: StoredCheckpoint
    checkpoint: Checkpoint
    began: float
    kept: list[Kept] = field(default_factory=list)
    stored: int = 0
    answered: int = 0
    published: bool = False


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
        self._round: _Round | None = None
        self._stopping = False
        self._impatient_at = 0.0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin with the newest checkpoint, whether or not it was published before."""
        self._stopping = False
        self._round = None
        self._threads = [threading.Thread(target=self._run, name="publisher", daemon=True)]
        self._threads += [
            threading.Thread(
                target=self._ask, args=(client,), name=f"witness {client.witness.url}", daemon=True
            )
            for client in self._clients
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
            self._impatient_at = time.monotonic()
            self._changed.notify_all()

    # --- the rounds

    def _run(self) -> None:
        while not self._stopping:
            try:
                current = self._begin()
                self._seek_quorum(current)
                self._rest(current)
            except Exception as error:  # noqa: BLE001  # no check: a database that is gone comes back
                _log.error("round failed", reason=str(error).splitlines()[0])
                self._sleep(self._limits.retry_interval_s)

    def _begin(self) -> _Round:
        signed = self._newest()
        checkpoint = Checkpoint(self._policy.logs[0].key.name, signed.size, signed.root)
        current = _Round(signed, checkpoint, began=time.monotonic())
        with self._changed:
            self._round = current
            self._changed.notify_all()
        return current

    def _seek_quorum(self, current: _Round) -> None:
        """Wait for a quorum and a moment more, and publish; or let the round's time pass."""
        with self._changed:
            met = self._changed.wait_for(
                lambda: self._stopping or self._is_met(current), timeout=self._limits.round_timeout_s
            )
            if not met or self._stopping:
                return
            self._changed.wait_for(
                lambda: self._stopping or current.answered == len(self._clients), timeout=self._limits.grace_s
            )
        self._publish(current)

    def _is_met(self, current: _Round) -> bool:
        fresh = {
            witness.name
            for witness in self._policy.witnesses
            for kept in current.kept
            if kept.cosignature.key == witness.key
        }
        return self._policy.is_quorum(fresh)

    def _publish(self, current: _Round) -> None:
        self._keep(current, published_ms=self._now_ms())
        first = not current.published
        current.published = True
        if first:
            self._observer.published(
                current.signed.size, max(0.0, (self._now_ms() - current.signed.signed_ms) / 1000)
            )
            self._publications.made(current.signed.size)

    def _keep(self, current: _Round, *, published_ms: int | None) -> None:
        with self._changed:
            fresh = current.kept[current.stored :]
            current.stored = len(current.kept)
        self._store.keep_cosignatures(
            current.signed.size, [_stored(kept) for kept in fresh], published_ms=published_ms
        )

    def _rest(self, current: _Round) -> None:
        """Until there is something new to publish, or the cosignatures grow old; late ones are added meanwhile."""
        while not self._stopping:
            if current.stored < len(current.kept):
                if not current.published and self._is_met(current):
                    self._publish(current)
                else:
                    self._keep(current, published_ms=None)
            age_s = time.monotonic() - current.began
            if self._newest().size > current.signed.size or age_s >= self._limits.recosign_interval_s:
                return
            with self._changed:
                self._changed.wait(_POLL_S)

    # --- a thread for each witness

    def _ask(self, client: WitnessClient) -> None:
        answered: _Round | None = None
        failures = 0
        tried = 0.0
        while not self._stopping:
            current = self._next_round(answered, tried=tried, failures=failures)
            if current is None:
                return
            tried = time.monotonic()
            result = self._cosign(client, current)
            failures = 0 if result else failures + 1
            answered = current if result else answered

    def _cosign(self, client: WitnessClient, current: _Round) -> bool:
        try:
            kept = client.cosign(current.signed, current.checkpoint, now_ms=self._now_ms())
        except LogError as error:
            self._observer.witness_answered(client.witness.url, error.code)
            _log.warning(
                "no cosignature", witness=client.witness.url, size=current.signed.size, reason=str(error)
            )
            return False
        self._observer.witness_answered(client.witness.url, "cosigned")
        with self._changed:
            current.kept.extend(kept)
            current.answered += 1
            self._changed.notify_all()
        return True

    def _next_round(self, answered: _Round | None, *, tried: float, failures: int) -> _Round | None:
        """Wait for a round that this witness has not answered, and after failures for the time to try again."""
        with self._changed:
            while not self._stopping:
                current = self._round
                if current is None or current is answered:
                    self._changed.wait()
                    continue
                wait_s = self._not_before(tried, failures) - time.monotonic()
                if wait_s <= 0:
                    return current
                self._changed.wait(wait_s)
        return None

    def _not_before(self, tried: float, failures: int) -> float:
        """Twice as long after each failure, up to half the re-cosigning interval; impatience makes it the first."""
        limits = self._limits
        if failures == 0:
            return tried
        pause_s = min(limits.retry_interval_s * 2 ** (failures - 1), limits.recosign_interval_s / 2)
        return tried + (limits.retry_interval_s if self._impatient_at > tried else pause_s)

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, timeout=seconds)


def _stored(kept: Kept) -> StoredCosignature:
    key = kept.cosignature.key
    return StoredCosignature(key.name, key.key_id, kept.signature.line, kept.cosignature.time_s)
