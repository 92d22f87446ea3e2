"""What the routes call: the log as a whole, wired once, without HTTP."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest import p256
from assay.attest.admission import Admitted, Publishers
from assay.attest.roots import TrustedRoot
from assay.fetch.collateral import CollateralFolder
from assay.log_server import anchor as anchors
from assay.log_server.admission import Admission, AdmittedRoot
from assay.log_server.anchor import AnchorFile
from assay.log_server.config import Config, PublisherSection
from assay.log_server.problem import NotFoundError, QuorumUnavailableError
from assay.log_server.sequencer import Sequenced, Sequencer
from assay.log_server.store import Store, StoredCheckpoint
from assay.log_server.witnessing import Publisher, WitnessClient, cosigned_note, witnesses_of
from assay.tlog import policy as tlog_policy
from assay.tlog import proof, strict, tlog_proof
from assay.tlog.checkpoint import parse_signed_checkpoint
from assay.tlog.errors import LogError, MalformedError, UnavailableError
from assay.tlog.keys import SignerKey, VerifierKey, parse_key_file
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


class LogService:
    """One running log.

    Args:
        config: validated configuration.
        folder: what the configuration's relative paths are relative to.
    """

    def __init__(self, config: Config, *, folder: Path) -> None:
        self.config = config
        self.signers = read_signers(folder / config.key, origin=config.origin)
        self.policy = read_witness_policy(config, folder=folder)
        self.store = open_store(config, folder=folder)
        self._anchor = AnchorFile(folder / config.anchor)
        anchors.verify_not_behind(
            self.store, self._anchor.read(), log_keys=self.log_keys, whose=f"the anchor {self._anchor.path}"
        )
        anchors.catch_up(self._anchor, self.store)
        self._clients = [
            WitnessClient(witness, store=self.store, timeout_s=config.witnesses.request_timeout_s)
            for witness in (witnesses_of(self.policy) if self.policy else ())
        ]
        self._verify_not_behind_witnesses()
        self._admission = _admission(config, folder=folder, store=self.store)
        self.sequencer = Sequencer(
            store=self.store,
            anchor=self._anchor,
            signers=self.signers,
            limits=config.sequencer,
            now_ms=now_ms,
            publish_at_once=self.policy is None,
            signed=self._signed,
        )
        self.publisher = None if self.policy is None else self._publisher(self.policy)

    @property
    def log_keys(self) -> tuple[VerifierKey, ...]:
        """The log's own verifier keys."""
        return tuple(signer.verifier for signer in self.signers)

    def start(self) -> None:
        """Start sequencing and publishing."""
        if self.policy is None:
            # What was signed before, the empty tree at the least, needs nobody else either.
            self.store.keep_cosignatures(self.store.latest().size, [], published_ms=now_ms())
        self.sequencer.start()
        if self.publisher:
            self.publisher.start()

    def stop(self) -> None:
        """Finish what is queued and end the threads."""
        self.sequencer.stop()
        if self.publisher:
            self.publisher.stop()
        self.store.close()

    def submit(self, data: bytes, *, witnessed: bool) -> Submitted:
        """Take one entry in and prove it.

        Raises:
            LogError: the entry is refused, or the log cannot store it now.
            QuorumUnavailableError: it is in the log, but not witnessed within the configured time.
        """
        if witnessed and self.publisher is None:
            raise MalformedError("this log's quorum is none: there is nothing to wait for", code="no-quorum")
        admitted = self._admission.admit(data, now_ms=now_ms())
        sequenced = self._sequence(admitted)
        integrated = self._submitted(sequenced, admitted)
        if not witnessed:
            return integrated
        assert self.publisher is not None
        timeout_s = self.config.witnessed_timeout_s
        if self.store.published(covering=sequenced.index + 1) is None:
            self.publisher.offer()
        published = self.publisher.wait_for(sequenced.index + 1, timeout_s=timeout_s)
        if published is None:
            raise QuorumUnavailableError(
                f"the entry is in the log, but too few witnesses have cosigned within {timeout_s:g} s",
                known=integrated.to_json(),
            )
        text = self.prove(sequenced.index, published)
        return Submitted(sequenced.index, integrated.leaf_hash, integrated.leaf, text, integrated.new)

    def _sequence(self, admitted: Admitted) -> Sequenced:
        try:
            return self.sequencer.submit(admitted).result(timeout=_COMMIT_TIMEOUT_S)
        except TimeoutError as error:
            raise UnavailableError(
                "the log did not answer for the entry in time; submitting it again is safe", code="not-stored"
            ) from error

    def prove(self, index: int, checkpoint: StoredCheckpoint) -> str:
        """The ``.tlog-proof`` of an entry in a checkpoint, with its cosignatures."""
        if index >= checkpoint.size:
            raise NotFoundError(f"entry {index} is not in the tree of size {checkpoint.size}")
        with self.store.hashes() as hashes:
            path = proof.prove_inclusion(index=index, size=checkpoint.size, reader=hashes)
        note = cosigned_note(self.store, checkpoint)
        return tlog_proof.format_proof(TlogProof(index, tuple(path), note, None)).decode()

    def newest_for(self, index: int) -> StoredCheckpoint:
        """The newest published checkpoint that covers an entry, or else the newest signed one."""
        published = self.store.published()
        return published if published and published.size > index else self.sequencer.anchored

    def _submitted(self, sequenced: Sequenced, admitted: Admitted) -> Submitted:
        # Of a duplicate, the leaf that is in the log counts: an enclave's appraisal is made once.
        leaf = admitted.leaf if sequenced.new else self.store.entry(sequenced.index)
        assert leaf is not None
        text = tlog_proof.format_proof(sequenced.proof).decode()
        return Submitted(sequenced.index, sequenced.leaf_hash.hex(), leaf, text, sequenced.new)

    def _signed(self) -> None:
        if self.publisher:
            self.publisher.offer()

    def _publisher(self, policy: Policy) -> Publisher:
        return Publisher(
            store=self.store,
            policy=policy,
            clients=self._clients,
            newest=lambda: self.sequencer.anchored,
            limits=self.config.witnesses,
            now_ms=now_ms,
        )

    def _verify_not_behind_witnesses(self) -> None:
        """Refuse to start behind a checkpoint of ours that a witness cosigned; an unreachable one says nothing.

        Only a checkpoint with this log's signature and the witness's counts: a bare size is not evidence.
        """
        for client in self._clients:
            try:
                data = client.newest(self.config.origin)
                if data is not None:
                    _require_cosigned(data, client.witness.keys)
            except LogError as error:
                _log.warning("witness not asked", witness=client.witness.url, reason=str(error))
                continue
            if data is not None:
                anchors.verify_not_behind(
                    self.store, data, log_keys=self.log_keys, whose=f"the witness {client.witness.url}"
                )


def now_ms() -> int:
    """The clock of the server: Unix ms."""
    return time.time_ns() // 1_000_000


def open_store(config: Config, *, folder: Path) -> Store:
    """The store that a configuration names: an SQLAlchemy URL, or a file for SQLite."""
    if "://" in config.database:
        return Store(config.database)
    return Store(f"sqlite:///{folder / config.database}")


def read_signers(path: Path, *, origin: str) -> tuple[SignerKey, ...]:
    """The log's keys.

    Raises:
        MalformedError: no key file, or keys of another name than the origin (code ``config``).
    """
    signers = parse_key_file(path.read_text("ascii"))
    if any(signer.name != origin for signer in signers):
        raise MalformedError(f"{path}: the keys are not those of {origin!r}", code="config")
    return signers


def read_witness_policy(config: Config, *, folder: Path) -> Policy | None:
    """The witness policy, or None for a log that asks for no witnesses.

    Raises:
        MalformedError: not a tlog-policy, or one without a quorum or of another log (code ``config``).
    """
    if config.witnesses.policy is None:
        return None
    parsed = tlog_policy.parse_policy((folder / config.witnesses.policy).read_bytes())
    if parsed.quorum is None:
        raise MalformedError(
            "the witness policy's quorum is none; leave the policy out instead", code="config"
        )
    if parsed.origins != (config.origin,):
        raise MalformedError(f"the witness policy is not of {config.origin!r} alone", code="config")
    tlog_policy.require_one_vote_per_witness(parsed)
    return parsed


def _require_cosigned(data: bytes, keys: Sequence[VerifierKey]) -> None:
    verify_note(parse_signed_checkpoint(data).note, keys)


def _admission(config: Config, *, folder: Path, store: Store) -> Admission:
    section = config.admission
    roots = [
        AdmittedRoot(
            TrustedRoot(root.name, certificate_der((folder / root.certificate).read_bytes())),
            CollateralFolder(folder / root.collateral),
        )
        for root in section.roots
    ]
    publishers = section.publishers
    return Admission(
        origin=config.origin,
        kinds=frozenset(section.kinds),
        roots=roots,
        publishers=None
        if publishers is None
        else {product: _publishers(rule, folder=folder) for product, rule in publishers.items()},
        state=store,
    )


def certificate_der(data: bytes) -> bytes:
    """A certificate's DER, from PEM or DER.

    Raises:
        MalformedError: neither (code ``config``).
    """
    try:
        load = x509.load_pem_x509_certificate if data.startswith(b"-----") else x509.load_der_x509_certificate
        return load(data).public_bytes(Encoding.DER)
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedError("a root certificate is neither PEM nor DER", code="config") from error


def _publishers(rule: PublisherSection, *, folder: Path) -> Publishers:
    signers = frozenset(
        p256.signer_id(p256.spki(p256.parse_public_pem((folder / key).read_bytes()))) for key in rule.keys
    )
    try:
        return Publishers(rule.threshold, signers)
    except ValueError as error:
        raise MalformedError(f"publishers: {error}", code="config") from error
