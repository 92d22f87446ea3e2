"""The sequencer: gives entries their place in the tree, many at a time, and signs what came of it.

Order of durability, one step after the other:

1. read the tree's size and right edge under the database's write lock;
2. set aside what is already in; give the rest indices; write entries, terms, blobs and tiles;
3. sign the new checkpoint in memory and write it, all in the same transaction;
4. commit. A crash before this leaves nothing, a crash after it loses nothing;
5. advance the anchor. A crash before this leaves the anchor behind the database, which a start repairs;
6. answer, and wake whoever offers the checkpoint to witnesses.

A failed commit fails every entry of the batch: whoever submitted retries, and an entry that did get in is
found by its identity. Nothing is kept in memory from one batch to the next, so there is nothing to go stale.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from assay.attest.admission import Admitted
from assay.log_server.anchor import AnchorFile
from assay.log_server.config import SequencerSection
from assay.log_server.store import Batch, Store, StoredCheckpoint, StoredHashes
from assay.tlog import merkle, note, proof
from assay.tlog.checkpoint import Checkpoint, sign_checkpoint
from assay.tlog.errors import UnavailableError
from assay.tlog.keys import SignerKey
from assay.tlog.merkle import Hash
from assay.tlog.tlog_proof import TlogProof

_log = structlog.get_logger("sequencer")


@dataclass(frozen=True, slots=True)
class Sequenced:
    """An entry's place, and the proof of it under the log's own signature.

    ``new`` is False if the entry was already there. The proof's checkpoint bears no cosignatures.
    """

    index: int
    leaf_hash: Hash
    new: bool
    proof: TlogProof


@dataclass(frozen=True, slots=True)
class _Waiting:
    admitted: Admitted
    result: "Future[Sequenced]"


class Sequencer:
    """One thread that turns admitted entries into batches.

    Args:
        store: the log's database, already caught up with the anchor.
        anchor: advanced after each commit.
        signers: the log's keys, all of one name: the origin.
        limits: batch and queue sizes.
        now_ms: the clock.
        publish_at_once: the log asks for no witnesses, so that what is signed is published.
        signed: called after a new checkpoint is durable.
    """

    def __init__(
        self,
        *,
        store: Store,
        anchor: AnchorFile,
        signers: Sequence[SignerKey],
        limits: SequencerSection,
        now_ms: Callable[[], int],
        publish_at_once: bool,
        signed: Callable[[], None],
    ) -> None:
        self._store = store
        self._anchor = anchor
        self._signers = signers
        self._limits = limits
        self._now_ms = now_ms
        self._publish_at_once = publish_at_once
        self._signed = signed
        self._anchored = store.latest()
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(limits.max_queue)
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)

    def start(self) -> None:
        """Begin to take entries."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    @property
    def anchored(self) -> StoredCheckpoint:
        """The newest checkpoint that may leave the process."""
        return self._anchored

    @property
    def queued(self) -> int:
        """How many entries wait."""
        return self._queue.qsize()

    def submit(self, admitted: Admitted) -> "Future[Sequenced]":
        """Queue an entry; the future is done when it is durable, or failed.

        Raises:
            UnavailableError: the queue is full (code ``queue-full``).
        """
        waiting = _Waiting(admitted, Future())
        try:
            self._queue.put_nowait(waiting)
        except queue.Full as error:
            raise UnavailableError(
                "the log has more entries waiting than it takes", code="queue-full"
            ) from error
        return waiting.result

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, ended = self._drain(first)
            self._sequence(batch)
            if ended:
                return

    def _drain(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """Whatever waits, up to the cap: nobody waits for a batch to fill, which is why one writer is fast."""
        batch = [first]
        while len(batch) < self._limits.max_batch:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                break
            if waiting is None:
                return batch, True
            batch.append(waiting)
        return batch, False

    def _sequence(self, batch: Sequence[_Waiting]) -> None:
        try:
            results = self._commit([waiting.admitted for waiting in batch])
        except Exception:  # noqa: BLE001  # not around a check: every failure has the same answer
            # Whatever went wrong, nothing is acknowledged; the database decides what is in.
            _log.exception("batch failed", entries=len(batch))
            for waiting in batch:
                waiting.result.set_exception(
                    UnavailableError("the log could not store the entry; try again", code="not-stored")
                )
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.result.set_result(result)
        if any(result.new for result in results):
            self._signed()

    def _commit(self, admitted: Sequence[Admitted]) -> list[Sequenced]:
        now_ms = self._now_ms()
        with self._store.write() as batch:
            before = batch.latest()
            places, fresh = _place(batch, before.size, admitted)
            batch.append(before.size, fresh, now_ms=now_ms)
            signed = self._sign(batch, before, grown=len(fresh), now_ms=now_ms)
            hashes = batch.hashes()
            results = [
                Sequenced(index, batch.leaf_hash(index), new, _prove(hashes, index, signed))
                for index, new in places
            ]
        # Also after an earlier batch whose anchor could not be written: no proof leaves before its anchor.
        if signed.size != self._anchored.size:
            self._anchor.advance(signed.note)
            self._anchored = signed
        return results

    def _sign(self, batch: Batch, before: StoredCheckpoint, *, grown: int, now_ms: int) -> StoredCheckpoint:
        if not grown:
            return before
        origin = self._signers[0].name
        size = before.size + grown
        checkpoint = Checkpoint(origin, size, proof.tree_root(size, batch.hashes()))
        signed_note = note.format_note(sign_checkpoint(checkpoint, self._signers, time_s=now_ms // 1000))
        batch.sign(checkpoint, signed_note, now_ms=now_ms, published=self._publish_at_once)
        published_ms = now_ms if self._publish_at_once else None
        return StoredCheckpoint(size, checkpoint.root, signed_note, now_ms, published_ms)


def _place(
    batch: Batch, size: int, admitted: Sequence[Admitted]
) -> tuple[list[tuple[int, bool]], list[Admitted]]:
    """Each entry's index and whether it is new; and the new ones, in order."""
    places: list[tuple[int, bool]] = []
    fresh: dict[bytes, tuple[int, Admitted]] = {}
    for item in admitted:
        known = batch.find_identity(item.identity)
        if known is None and item.identity in fresh:
            known = fresh[item.identity][0]
        if known is None:
            known = size + len(fresh)
            fresh[item.identity] = (known, item)
            places.append((known, True))
        else:
            places.append((known, False))
    return places, [item for _, item in fresh.values()]


def _prove(hashes: StoredHashes, index: int, checkpoint: StoredCheckpoint) -> TlogProof:
    path = proof.prove_inclusion(index=index, size=checkpoint.size, reader=hashes)
    return TlogProof(index=index, hashes=tuple(path), checkpoint=checkpoint.note, extra=None)


def initialise(
    store: Store, anchor: AnchorFile, *, signers: Sequence[SignerKey], now_ms: int, published: bool
) -> None:
    """Sign the checkpoint of the empty tree and anchor it: once in a log's life.

    Raises:
        FileExistsError: there is an anchor already, hence a log.
    """
    if anchor.path.exists():
        raise FileExistsError(f"{anchor.path}: an anchor is there already; a log is initialised once")
    checkpoint = Checkpoint(signers[0].name, 0, merkle.EMPTY_ROOT)
    signed = note.format_note(sign_checkpoint(checkpoint, signers, time_s=now_ms // 1000))
    with store.write() as batch:
        batch.sign(checkpoint, signed, now_ms=now_ms, published=published)
    anchor.advance(signed)
