"""The sequencer: gives entries their place in the tree, many at a time, and signs what came of it.

Order of durability, one step after the other:

1. take the tree's lock; only then close the batch, so that what came while others held it goes along;
2. read the tree's size and right edge; set aside what is already in; give the rest indices; write entries,
   terms, blobs and tiles;
3. sign the new checkpoint in memory and write it, all in the same transaction;
4. commit. A crash before this leaves nothing, a crash after it loses nothing;
5. advance the anchor. A crash before this leaves the anchor behind the database, which a start repairs;
6. answer, and wake whoever offers the checkpoint to witnesses.

A failed commit fails every entry of the batch: whoever submitted retries, and an entry that did get in is
found by its identity. Nothing is kept in memory from one batch to the next, so there is nothing to go stale,
and any number of processes may do this on one database.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from assay.attest.admission import Admitted
from assay.log_server.anchor import Anchor, Anchoring
from assay.log_server.batch import Batch
from assay.log_server.config import SequencerSection
from assay.log_server.hashes import TileHashes
from assay.log_server.problem import FrozenError
from assay.log_server.rows import Known, StoredCheckpoint
from assay.log_server.store import Store
from assay.tlog import merkle, note, proof
from assay.tlog.checkpoint import Checkpoint, sign_checkpoint
from assay.tlog.errors import InconsistentError, LogError, MalformedError, UnavailableError
from assay.tlog.keys import SignerKey
from assay.tlog.merkle import Hash
from assay.tlog.tlog_proof import TlogProof

_log = structlog.get_logger("sequencer")

_TRY_AGAIN_S = 1.0
"""How often a server that could not store a batch tries whether it can, when it is asked."""

_OF_NO_ENTRY = (OperationalError, InterfaceError, OSError, LogError)
"""Failures that no entry causes. After any other each group is tried alone, so that one cannot hold up the rest."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What a batch made: the checkpoint under which all of its entries are, and hashes to prove it with."""

    checkpoint: StoredCheckpoint
    hashes: TileHashes


@dataclass(frozen=True, slots=True)
class Sequenced:
    """An entry's place. ``new`` is False if the entry was already there."""

    index: int
    leaf_hash: Hash
    new: bool
    commit: Commit

    def prove(self) -> TlogProof:
        """The proof of it under the log's own signature, without cosignatures."""
        signed = self.commit.checkpoint
        path = proof.prove_inclusion(index=self.index, size=signed.size, reader=self.commit.hashes)
        return TlogProof(index=self.index, hashes=tuple(path), checkpoint=signed.note, extra=None)


class Observer(Protocol):
    """Who counts what the sequencer does."""

    def batch_committed(self, entries: int, seconds: float) -> None:
        """A batch is durable; ``seconds`` from the lock to the anchor."""
        ...

    def pushed_back(self) -> None:
        """An entry found the queue full."""
        ...


@dataclass(frozen=True, slots=True)
class _Group:
    """Entries that were handed over together and are answered together."""

    admitted: Sequence[Admitted]
    result: "Future[list[Sequenced]]"


class _Queue:
    """The entries that wait, bounded by their number."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._groups: deque[_Group] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.entries = 0

    def put(self, group: _Group) -> bool:
        """Add a group; false if there is no room or nobody takes it any more."""
        with self._changed:
            if self._closed or self.entries + len(group.admitted) > self._most:
                return False
            self._groups.append(group)
            self.entries += len(group.admitted)
            self._changed.notify()
            return True

    def close(self) -> None:
        """Take nothing more; what is there is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self) -> bool:
        """Wait for something to do; false once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._groups or self._closed)
            return bool(self._groups)

    def take(self, *, most: int, most_bytes: int) -> list[_Group]:
        """Whatever waits, up to the caps but at least one group."""
        taken: list[_Group] = []
        entries = size = 0
        with self._changed:
            while self._groups:
                group = self._groups[0]
                entries += len(group.admitted)
                size += sum(len(item.leaf) for item in group.admitted)
                if taken and (entries > most or size > most_bytes):
                    break
                taken.append(self._groups.popleft())
                self.entries -= len(group.admitted)
        return taken


class Sequencer:
    """One thread that turns admitted entries into batches.

    Args:
        store: the log's database.
        anchoring: advanced after each commit.
        signers: the log's keys, all of one name: the origin.
        limits: batch and queue sizes.
        now_ms: the clock.
        publish_at_once: the log asks for no witnesses, so that what is signed is published.
        signed: called after a new checkpoint is durable.
        observer: counts.
    """

    def __init__(
        self,
        *,
        store: Store,
        anchoring: Anchoring,
        signers: Sequence[SignerKey],
        limits: SequencerSection,
        now_ms: Callable[[], int],
        publish_at_once: bool,
        signed: Callable[[], None],
        observer: Observer,
    ) -> None:
        self._store = store
        self._anchoring = anchoring
        self._signers = signers
        self._limits = limits
        self._now_ms = now_ms
        self._publish_at_once = publish_at_once
        self._signed = signed
        self._observer = observer
        self._halted: InconsistentError | None = None
        self._trouble: LogError | None = None
        self._tried_s = float("-inf")
        self._queue = _Queue(limits.max_queue)
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)

    def start(self) -> None:
        """Begin to take entries."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued, then end."""
        self._queue.close()
        self._thread.join()

    def verify_working(self) -> None:
        """Check that the last batch could be stored or, if it could not, that one could be now.

        Whoever sends no requests to a server that is not ready would otherwise wait for ever for the batch that
        shows it ready again. It is tried once a second at most, since anybody may ask.

        Raises:
            LogError: it could not; what is wrong then.
        """
        trouble = self._trouble
        if trouble is None:
            return
        now_s = time.monotonic()
        if self._halted is not None or now_s - self._tried_s < _TRY_AGAIN_S:
            raise trouble
        self._tried_s = now_s
        try:
            self._store.verify_writable()
            self._anchoring.cover(self._store.latest())
        except (SQLAlchemyError, OSError, LogError) as error:
            raise trouble from error
        if self._trouble is trouble:
            self._trouble = None

    @property
    def queued(self) -> int:
        """How many entries wait."""
        return self._queue.entries

    def submit(self, admitted: Sequence[Admitted]) -> "Future[list[Sequenced]]":
        """Queue entries that belong together; the future is done when they are durable, or failed.

        Raises:
            UnavailableError: the queue is full (code ``queue-full``).
        """
        group = _Group(admitted, Future())
        if not self._queue.put(group):
            self._observer.pushed_back()
            raise UnavailableError("the log has more entries waiting than it takes", code="queue-full")
        return group.result

    def _run(self) -> None:
        while self._queue.wait():
            self._sequence([])

    def _sequence(self, groups: Sequence[_Group]) -> None:
        """Sequence the given groups, or else whatever waits once it is our turn."""
        taken = list(groups)
        began = time.perf_counter()
        try:
            results = self._commit(taken)
        except Exception as error:  # noqa: BLE001  # not around a check: every failure has the same answer
            # Whatever went wrong, nothing is acknowledged; the database decides what is in.
            self._failed(taken or self._take(), error)
            return
        self._trouble = None
        self._observer.batch_committed(sum(map(len, results)), time.perf_counter() - began)
        for group, result in zip(taken, results, strict=True):
            group.result.set_result(result)
        if any(each.new for result in results for each in result):
            self._signed()

    def _failed(self, groups: Sequence[_Group], error: Exception) -> None:
        if isinstance(error, InconsistentError):
            self._halted = error
        if not isinstance(error, _OF_NO_ENTRY) and len(groups) > 1:
            for group in groups:
                self._sequence([group])
            return
        _log.error("batch failed", entries=sum(len(group.admitted) for group in groups), exc_info=error)
        answer = error if isinstance(error, LogError) else _not_stored()
        self._trouble = None if isinstance(answer, FrozenError) else answer
        for group in groups:
            group.result.set_exception(answer)

    def _take(self) -> list[_Group]:
        return self._queue.take(most=self._limits.max_batch, most_bytes=self._limits.max_batch_bytes)

    def _commit(self, groups: list[_Group]) -> list[list[Sequenced]]:
        """One transaction; fills ``groups``, if it is empty, with what waits when the lock is ours."""
        if self._halted is not None:
            raise self._halted  # somebody signs for this log elsewhere: not one checkpoint more
        with self._store.write() as batch:
            _require_open(batch)
            groups.extend([] if groups else self._take())
            admitted = [item for group in groups for item in group.admitted]
            before = batch.latest()
            now_ms = max(self._now_ms(), before.signed_ms)  # a clock that is set back does not go back here
            places, fresh = _place(batch, before.size, admitted)
            batch.append(before.size, fresh, now_ms=now_ms)
            hashes = batch.hashes()
            signed = self._sign(batch, hashes, before, grown=len(fresh), now_ms=now_ms)
        # Also without growth: an earlier batch's anchor may have failed, and no proof leaves before its anchor.
        self._anchoring.cover(signed)
        hashes.read_from(self._store.tile)
        commit = Commit(signed, hashes)
        sequenced = iter([Sequenced(known.index, known.leaf_hash, new, commit) for known, new in places])
        return [[next(sequenced) for _ in group.admitted] for group in groups]

    def _sign(
        self, batch: Batch, hashes: TileHashes, before: StoredCheckpoint, *, grown: int, now_ms: int
    ) -> StoredCheckpoint:
        if not grown:
            return before
        origin = self._signers[0].name
        size = before.size + grown
        checkpoint = Checkpoint(origin, size, proof.tree_root(size, hashes))
        signed_note = note.format_note(sign_checkpoint(checkpoint, self._signers, time_s=now_ms // 1000))
        batch.sign(checkpoint, signed_note, now_ms=now_ms, published=self._publish_at_once)
        published_ms = now_ms if self._publish_at_once else None
        return StoredCheckpoint(size, checkpoint.root, signed_note, now_ms, published_ms)


def _require_open(batch: Batch) -> None:
    identity = batch.identity()
    if identity is None:
        raise MalformedError("the database is not a log's", code="log-identity")
    if identity.frozen_ms is not None:
        raise FrozenError("this log is frozen: it is complete, and takes no more entries")


def _place(
    batch: Batch, size: int, admitted: Sequence[Admitted]
) -> tuple[list[tuple[Known, bool]], list[Admitted]]:
    """Each entry's place and whether it is new; and the new ones, in order."""
    places: list[tuple[Known, bool]] = []
    fresh: list[Admitted] = []
    known = batch.find_identities([item.identity for item in admitted])
    for item in admitted:
        new = item.identity not in known
        if new:
            known[item.identity] = Known(size + len(fresh), merkle.leaf_hash(item.leaf))
            fresh.append(item)
        places.append((known[item.identity], new))
    return places, fresh


def _not_stored() -> UnavailableError:
    return UnavailableError("the log could not store the entry; try again", code="not-stored")


def initialise(
    store: Store, anchor: Anchor, *, signers: Sequence[SignerKey], now_ms: int, published: bool
) -> None:
    """Sign the checkpoint of the empty tree and anchor it: once in a log's life.

    Raises:
        FileExistsError: there is an anchor already, hence a log.
    """
    checkpoint = Checkpoint(signers[0].name, 0, merkle.EMPTY_ROOT)
    signed = note.format_note(sign_checkpoint(checkpoint, signers, time_s=now_ms // 1000))
    with store.write() as batch:
        batch.identify(checkpoint.origin, [str(signer.verifier) for signer in signers])
        batch.sign(checkpoint, signed, now_ms=now_ms, published=published)
        anchor.create(signed)
