"""What the log's signatures, witnesses and proofs show of a leaf."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from assay.attest.bundle import Logged
from assay.client.verdict import Passed
from assay.tlog import merkle, proof, strict
from assay.tlog.errors import InconsistentError, StaleError, UntrustedError
from assay.tlog.merkle import Hash
from assay.tlog.policy import CosignedCheckpoint, verify_cosigned_checkpoint
from assay.tlog.policy import Policy as LogPolicy

CLOCK_TOLERANCE_S = 10
"""By how much the clocks of log, witnesses, enclave hosts and verifiers may differ."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A leaf that a log holds at ``index``, by a checkpoint that the policy's quorum cosigned."""

    leaf: bytes
    index: int
    cosigned: CosignedCheckpoint

    @property
    def leaf_hash(self) -> Hash:
        """RFC 6962 hash of the leaf."""
        return merkle.leaf_hash(self.leaf)

    @property
    def origin(self) -> str:
        """The log that holds it."""
        return self.cosigned.checkpoint.origin


def judge_checkpoint(data: bytes, *, policy: LogPolicy) -> Passed[CosignedCheckpoint]:
    """Check a checkpoint's log signatures, cosignatures and quorum.

    Raises:
        MalformedError, UntrustedError: as ``verify_cosigned_checkpoint``.
    """
    cosigned = verify_cosigned_checkpoint(data, policy)
    head = cosigned.checkpoint
    witnesses = ", ".join(
        sorted({strict.shown(cosignature.key.name) for cosignature in cosigned.cosignatures})
    )
    return Passed(
        cosigned,
        f"{strict.shown(head.origin)}, {head.size} entries, cosigned by {witnesses}, "
        f"quorum at {quorum_time_s(cosigned)}",
    )


def judge_inclusion(logged: Logged, cosigned: CosignedCheckpoint) -> Passed[Proven]:
    """Check that the tree of a believed checkpoint holds a leaf.

    Raises:
        MalformedError: a proof of another shape.
        UntrustedError: the tree does not hold the leaf there (code ``inclusion``).
    """
    head = cosigned.checkpoint
    proof.verify_inclusion(
        merkle.leaf_hash(logged.leaf),
        index=logged.proof.index,
        size=head.size,
        proof=logged.proof.hashes,
        root=head.root,
    )
    found = Proven(logged.leaf, logged.proof.index, cosigned)
    return Passed(found, f"entry {found.index} of {head.size}, leaf {found.leaf_hash.hex()}")


def quorum_time_s(cosigned: CosignedCheckpoint) -> int:
    """Unix seconds at which the quorum was complete.

    Raises:
        UntrustedError: the policy asks for no quorum, so that no time is known (code ``quorum``).
    """
    if cosigned.quorum_time_s is None:
        raise UntrustedError("no quorum of witnesses states a time", code="quorum")
    return cosigned.quorum_time_s


def logged_by_s(proven: Proven, others: Iterable[CosignedCheckpoint]) -> int:
    """The earliest time by which the leaf was in its log, as far as these checkpoints show; Unix seconds.

    Checkpoints that one quorum cosigned are of one history, so every one that is large enough covers the leaf,
    also those that came with other proofs.
    """
    covering = [
        cosigned
        for cosigned in others
        if cosigned.checkpoint.origin == proven.origin and cosigned.checkpoint.size > proven.index
    ]
    return min(quorum_time_s(cosigned) for cosigned in (proven.cosigned, *covering))


def judge_agreement(cosigned: Sequence[CosignedCheckpoint]) -> Passed[None]:
    """Check that no two believed checkpoints of one log have one size but two roots.

    Raises:
        InconsistentError: they do (code ``split-view``); the evidence is both texts.
    """
    seen: dict[tuple[str, int], CosignedCheckpoint] = {}
    for item in cosigned:
        head = item.checkpoint
        known = seen.setdefault((head.origin, head.size), item).checkpoint
        if known.root != head.root:
            raise InconsistentError(
                f"{strict.shown(head.origin)} has two roots for {head.size} entries",
                evidence={"first": known.text.encode(), "second": head.text.encode()},
                code="split-view",
            )
    return Passed(None, f"{len(seen)} checkpoints, no two of one size with different roots")


def judge_not_future(cosigned: CosignedCheckpoint, *, now_s: int) -> Passed[None]:
    """Check that the quorum did not cosign after the time of judgement.

    Raises:
        StaleError: it did (code ``time``).
    """
    if quorum_time_s(cosigned) > now_s + CLOCK_TOLERANCE_S:
        raise StaleError(f"cosigned at {quorum_time_s(cosigned)}, judged at {now_s}", code="time")
    return Passed(None, "not from the future")


def judge_checkpoint_age(cosigned: CosignedCheckpoint, *, max_age_s: int, now_s: int) -> Passed[None]:
    """Check that a checkpoint's quorum is recent.

    Raises:
        StaleError: older than ``max_age_s``, or from the future (code ``checkpoint-age``).
    """
    age_s = now_s - quorum_time_s(cosigned)
    if not -CLOCK_TOLERANCE_S <= age_s <= max_age_s:
        raise StaleError(
            f"the log's newest checkpoint is {age_s} s old, {max_age_s} are allowed", code="checkpoint-age"
        )
    return Passed(None, f"the log's newest checkpoint is {max(age_s, 0)} s old")
