"""What the routes call: the log as a whole, wired once, without HTTP."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from assay.attest.admission import Admitted
from assay.log_server import anchor as anchors
from assay.log_server import wiring
from assay.log_server.anchor import Anchor, Anchoring
from assay.log_server.batch import Batch
from assay.log_server.config import Config
from assay.log_server.copies import open_target
from assay.log_server.export import Exporter
from assay.log_server.metrics import Metrics
from assay.log_server.problem import FrozenError, NotFoundError, QuorumUnavailableError
from assay.log_server.publishing import Publications, Publisher
from assay.log_server.roles import Role
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.sequencer import Sequenced, Sequencer
from assay.log_server.witnessing import WitnessClient, first_cosigned_note, verify_not_behind, witnesses_of
from assay.tlog import proof, strict, tlog_proof
from assay.tlog.checkpoint import parse_signed_checkpoint, verify_checkpoint
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError
from assay.tlog.keys import VerifierKey
from assay.tlog.note import verify_note
from assay.tlog.policy import Policy
from assay.tlog.tlog_proof import TlogProof

_log = structlog.get_logger("log")

_COMMIT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """An entry that is in the log, with a proof."""

    index: int
    leaf_hash: str
    leaf: bytes
    proof: str
    new: bool

    def to_json(self) -> dict[str, object]:
        """The answer to a submission."""
        return {
            "index": self.index,
            "leaf_hash": self.leaf_hash,
            "leaf": strict.base64_text(self.leaf),
            "proof": self.proof,
        }


@dataclass(frozen=True, slots=True)
class BatchItem:
    """An entry of a batch that is in the log."""

    index: int
    leaf_hash: str
    new: bool


class LogService:
    """One running log.

    Args:
        config: validated configuration.
        folder: what the configuration's relative paths are relative to.

    Raises:
        LogError: the configuration, the database and the anchor do not belong together, or signing from here
            would fork the log.
    """

    def __init__(self, config: Config, *, folder: Path) -> None:
        self.config = config
        self._frozen = False
        self.metrics = Metrics(config.origin)
        self.signers = wiring.read_signers(folder / config.key, origin=config.origin)
        self.policy = wiring.read_witness_policy(config, folder=folder)
        self.store = wiring.open_store(config, folder=folder)
        with ExitStack() as opened:
            opened.callback(self.store.close)
            opened.enter_context(self.store.database.serving())
            self._require_own_database()
            anchor = anchors.open_anchor(config.anchor, folder=folder)
            anchors.verify_not_behind(
                self.store, _read(anchor), log_keys=self.log_keys, whose=f"the anchor {anchor.name}"
            )
            self._anchoring = Anchoring(anchor, self.store)
            self._anchoring.cover(self.store.latest())  # after a crash between commit and anchor it follows
            self._clients = [
                WitnessClient(witness, store=self.store, timeout_s=config.witnesses.request_timeout_s)
                for witness in (witnesses_of(self.policy) if self.policy else ())
            ]
            verify_not_behind(self.store, self._clients, log_keys=self.log_keys, origin=config.origin)
            self._publications = Publications(self.store)
            self._admission = wiring.open_admission(config, folder=folder, store=self.store)
            self.sequencer = Sequencer(
                store=self.store,
                anchoring=self._anchoring,
                signers=self.signers,
                limits=config.sequencer,
                now_ms=now_ms,
                publish_at_once=self.policy is None,
                signed=self._signed,
                observer=self.metrics,
            )
            self.publisher = None if self.policy is None else self._publisher(self.policy)
            duties: dict[str, Publisher | Exporter] = {}
            if self.publisher is not None:
                duties["publisher"] = self.publisher
            if config.export.to is not None:
                duties["export"] = self._exporter(config.export.to, folder=folder)
            self._roles = [
                Role(self.store.database, name, begin=duty.start, end=duty.stop)
                for name, duty in duties.items()
            ]
            self._opened = opened.pop_all()

    @property
    def log_keys(self) -> tuple[VerifierKey, ...]:
        """The log's own verifier keys."""
        return tuple(signer.verifier for signer in self.signers)

    def newest(self) -> StoredCheckpoint:
        """The newest signed checkpoint that may leave the process, whichever process signed it.

        Raises:
            InconsistentError: the anchor is with another database.
        """
        latest = self.store.latest()
        try:
            self._anchoring.cover(latest)
        except UnavailableError as error:
            _log.error("anchor stands still", reason=str(error))
            covered = self.store.checkpoint(self._anchoring.covered)
            assert covered is not None, "the anchor holds what was in the database"
            return covered
        return latest

    def start(self) -> None:
        """Start sequencing and publishing."""
        if self.policy is None:
            # What was signed before, the empty tree at the least, needs nobody else either.
            self.store.keep_cosignatures(self.store.latest().size, [], published_ms=now_ms())
        self.sequencer.start()
        for role in self._roles:
            role.start()

    def stop(self) -> None:
        """Finish what is queued and end the threads."""
        self.sequencer.stop()
        for role in self._roles:
            role.stop()
        self._publications.stop()
        self._opened.close()

    def verify_open(self) -> None:
        """Check that the log still takes entries. Freezing is for good, so once seen it is not asked for again.

        Raises:
            FrozenError: it does not.
        """
        self._frozen = self._frozen or self.store.frozen_ms() is not None
        if self._frozen:
            raise FrozenError("this log is frozen: it is complete, and takes no more entries")

    @contextmanager
    def open_for_writes(self) -> Iterator[None]:
        """Let a frozen log say that it is frozen, whatever else is wrong with what is submitted.

        What is accepted pays nothing for it: the sequencer looks under the tree's lock anyway.

        Raises:
            FrozenError: it takes no more entries.
        """
        if self._frozen:
            self.verify_open()
        try:
            yield
        except UnavailableError:
            raise  # says nothing against the submission, which may even be in
        except LogError:
            self.verify_open()
            raise

    def submit(self, data: bytes, *, witnessed: bool) -> Submitted:
        """Take one entry in and prove it.

        Raises:
            LogError: the entry is refused, or the log cannot store it now.
            QuorumUnavailableError: it is in the log, but not witnessed within the configured time.
        """
        if witnessed and self.publisher is None:
            raise MalformedError("this log's quorum is none: there is nothing to wait for", code="no-quorum")
        admitted = self._judge(data)
        if isinstance(admitted, LogError):
            raise admitted
        (sequenced,) = self._sequence([admitted])
        integrated = self._submitted(sequenced, admitted)
        if not witnessed:
            return integrated
        timeout_s = self.config.witnessed_timeout_s
        published = self.wait_published(sequenced.index, timeout_s=timeout_s)
        if published is None:
            raise QuorumUnavailableError(
                f"the entry is in the log, but too few witnesses have cosigned within {timeout_s:g} s",
                known=integrated.to_json(),
            )
        text = self.prove(sequenced.index, published)
        return Submitted(sequenced.index, integrated.leaf_hash, integrated.leaf, text, integrated.new)

    def submit_many(self, items: Sequence[bytes]) -> list[BatchItem | LogError]:
        """Take entries in, in one commit; each one's place or why it was refused, in their order.

        Raises:
            LogError: the log can store none of them now.
        """
        judged = [self._judge(item) for item in items]
        admitted = [item for item in judged if not isinstance(item, LogError)]
        sequenced = iter(self._sequence(admitted) if admitted else [])
        return [item if isinstance(item, LogError) else _batch_item(next(sequenced)) for item in judged]

    def _judge(self, data: bytes) -> Admitted | LogError:
        try:
            return self._admission.admit(data, now_ms=now_ms())
        except LogError as error:
            self.metrics.submitted("", error.code)
            return error

    def _sequence(self, admitted: Sequence[Admitted]) -> list[Sequenced]:
        try:
            results = self.sequencer.submit(admitted).result(timeout=_COMMIT_TIMEOUT_S)
        except TimeoutError as error:
            raise UnavailableError(
                "the log did not answer for the entry in time; submitting it again is safe", code="not-stored"
            ) from error
        for item, result in zip(admitted, results, strict=True):
            self.metrics.submitted(item.kind, "new" if result.new else "duplicate")
        return results

    def wait_published(self, index: int, *, timeout_s: float) -> StoredCheckpoint | None:
        """The smallest published checkpoint that covers an entry; None if the witnesses take too long."""
        if self.publisher is None:
            return None
        published = self.store.published(covering=index + 1)
        if published is None:
            self.publisher.offer()
            published = self._publications.wait_for(index + 1, timeout_s=timeout_s)
        return published

    def prove(self, index: int, checkpoint: StoredCheckpoint) -> str:
        """The ``.tlog-proof`` of an entry in a checkpoint, with its cosignatures."""
        if index >= checkpoint.size:
            raise NotFoundError(f"entry {index} is not in the tree of size {checkpoint.size}")
        with self.store.hashes() as hashes:
            path = proof.prove_inclusion(index=index, size=checkpoint.size, reader=hashes)
        note = first_cosigned_note(self.store, checkpoint)
        return tlog_proof.format_proof(TlogProof(index, tuple(path), note, None)).decode()

    def newest_for(self, index: int) -> StoredCheckpoint:
        """The newest published checkpoint that covers an entry, or else the newest signed one."""
        published = self.store.published()
        return published if published and published.size > index else self.newest()

    def _submitted(self, sequenced: Sequenced, admitted: Admitted) -> Submitted:
        # Of a duplicate, the leaf that is in the log counts: an enclave's appraisal is made once.
        leaf = admitted.leaf if sequenced.new else self.store.entry(sequenced.index)
        assert leaf is not None
        text = tlog_proof.format_proof(sequenced.prove()).decode()
        return Submitted(sequenced.index, sequenced.leaf_hash.hex(), leaf, text, sequenced.new)

    def _signed(self) -> None:
        if self.publisher:
            self.publisher.offer()

    def _publisher(self, policy: Policy) -> Publisher:
        return Publisher(
            store=self.store,
            policy=policy,
            clients=self._clients,
            newest=self.newest,
            limits=self.config.witnesses,
            now_ms=now_ms,
            publications=self._publications,
            observer=self.metrics,
        )

    def _exporter(self, place: str, *, folder: Path) -> Exporter:
        return Exporter(
            self.store,
            open_target(place, folder=folder),
            log_keys=self.log_keys,
            interval_s=self.config.export.interval_s,
        )

    def _require_own_database(self) -> None:
        """The database is this log's; one from before its identity was written down is adopted.

        Raises:
            MalformedError: it was never initialised (code ``log-identity``).
            UntrustedError: it is another log's, or this one's under other keys (code ``log-identity``).
        """
        vkeys = tuple(str(key) for key in self.log_keys)
        with self.store.write() as batch:
            identity = batch.identity()
            if identity is None:
                _verify_own(batch, self.log_keys)
                batch.identify(self.config.origin, vkeys)
                return
        if (identity.origin, identity.vkeys) != (self.config.origin, vkeys):
            raise UntrustedError(
                f"the database is that of {identity.origin} with the keys {', '.join(identity.vkeys)}; "
                "the configured origin and keys are others",
                code="log-identity",
            )


def _read(anchor: Anchor) -> bytes:
    """The anchored note; one that is missing is never taken for "nothing signed yet"."""
    try:
        return anchor.read()
    except FileNotFoundError as error:
        raise UntrustedError(
            f"the anchor {anchor.name} is missing; bring it back. Without it nobody knows what this log has signed",
            code="no-anchor",
        ) from error


def _verify_own(batch: Batch, log_keys: tuple[VerifierKey, ...]) -> None:
    try:
        newest = batch.latest()
    except LookupError as error:
        raise MalformedError(f"{error}; 'assay log init' makes a log", code="log-identity") from error
    verify_checkpoint(newest.note, log_keys=log_keys)


def _batch_item(sequenced: Sequenced) -> BatchItem:
    return BatchItem(sequenced.index, sequenced.leaf_hash.hex(), sequenced.new)


def now_ms() -> int:
    """The clock of the server: Unix ms."""
    return time.time_ns() // 1_000_000


def _require_cosigned(data: bytes, keys: Sequence[VerifierKey]) -> None:
    verify_note(parse_signed_checkpoint(data).note, keys)
