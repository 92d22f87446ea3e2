r"""Offline proofs that a leaf is in a log: ``.tlog-proof`` files (c2sp.org/tlog-proof).

::

    c2sp.org/tlog-proof@v1\n
    extra <base64>\n            only if there is extra data, which nothing authenticates
    index <decimal>\n
    <base64 hash>\n             the leaf's sibling first, at most 63
    \n
    <the checkpoint's note, verbatim, with its cosignatures>
"""

from dataclasses import dataclass

from assay.tlog.checkpoint import parse_signed_checkpoint
from assay.tlog.errors import MalformedError
from assay.tlog.merkle import HASH_SIZE, Hash, as_hash
from assay.tlog.policy import CosignedCheckpoint, Policy, verify_cosigned_checkpoint
from assay.tlog.proof import verify_inclusion
from assay.tlog.strict import MAX_DECIMAL, base64_bytes, base64_text, decimal, lines, utf8_text

HEADER = "c2sp.org/tlog-proof@v1"
MAX_PROOF_SIZE = 1 << 20
MAX_PROOF_HASHES = 63

MAX_EXTRA_SIZE = 48 * 1024 - 6
"""Bytes of extra data: the longest whose line other parsers take, which stop at 64 KiB a line."""


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A parsed proof; nothing is verified.

    ``index`` is 0-based. ``hashes`` is the inclusion proof, the leaf's sibling first. ``checkpoint`` is
    the note's exact bytes. ``extra`` is not authenticated by anything, or None if the line is missing.

    Raises:
        MalformedError: a part that no file can carry, or a checkpoint that is no checkpoint.
    """

    index: int
    hashes: tuple[Hash, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MAX_DECIMAL:
            raise MalformedError(f"proof: index {self.index} is out of range")
        if len(self.hashes) > MAX_PROOF_HASHES:
            raise MalformedError(f"proof: {len(self.hashes)} hashes, more than {MAX_PROOF_HASHES}")
        for each in self.hashes:
            as_hash(each, what="proof")
        if self.extra is not None and not 1 <= len(self.extra) <= MAX_EXTRA_SIZE:
            raise MalformedError(f"proof: {len(self.extra)} bytes of extra data, not 1 to {MAX_EXTRA_SIZE}")
        parse_signed_checkpoint(self.checkpoint)


@dataclass(frozen=True, slots=True)
class VerifiedInclusion:
    """A leaf hash that is at ``index`` of the tree whose checkpoint the policy accepted."""

    index: int
    leaf: Hash
    cosigned: CosignedCheckpoint


def parse_proof(data: bytes) -> TlogProof:
    """Parse a ``.tlog-proof``; :func:`format_proof` gives the same bytes back. Nothing is verified.

    Raises:
        MalformedError: another spelling, or beyond the bounds of this module.
    """
    if len(data) > MAX_PROOF_SIZE:
        raise MalformedError(f"proof: longer than {MAX_PROOF_SIZE} bytes")
    head, blank, checkpoint = data.partition(b"\n\n")
    if not blank:
        raise MalformedError("proof: no blank line before the checkpoint")
    rows = lines(utf8_text(head, what="proof") + "\n", what="proof")
    if rows.pop(0) != HEADER:
        raise MalformedError(f"proof: the first line is not {HEADER}")
    extra = _field(rows.pop(0), "extra ") if rows and rows[0].startswith("extra ") else None
    index = _field(rows.pop(0), "index ") if rows else ""
    return TlogProof(
        index=decimal(index, what="proof's index"),
        hashes=_hashes(rows),
        checkpoint=checkpoint,
        extra=None if extra is None else base64_bytes(extra, what="proof's extra data"),
    )


def format_proof(proof: TlogProof) -> bytes:
    """The bytes of a ``.tlog-proof``; the inverse of :func:`parse_proof`.

    Raises:
        MalformedError: longer than the bound.
    """
    rows = [HEADER]
    if proof.extra is not None:
        rows.append(f"extra {base64_text(proof.extra)}")
    rows.append(f"index {proof.index}")
    rows.extend(base64_text(each) for each in proof.hashes)
    data = "".join(f"{row}\n" for row in rows).encode() + b"\n" + proof.checkpoint
    if len(data) > MAX_PROOF_SIZE:
        raise MalformedError(f"proof: longer than {MAX_PROOF_SIZE} bytes")
    return data


def verify_proof(proof: TlogProof, *, leaf: Hash, policy: Policy) -> VerifiedInclusion:
    """Check that ``leaf`` is in a log that the policy accepts; the extra data is not looked at.

    Args:
        proof: the parsed file.
        leaf: the leaf hash, computed by the caller from the entry's own bytes.
        policy: logs, witnesses and quorum.

    Raises:
        UntrustedError: the checkpoint is not acceptable (the codes of
            :func:`~assay.tlog.policy.verify_cosigned_checkpoint`), or the leaf is not where the proof
            says (``inclusion``).
        MalformedError: the proof has the wrong shape for its index and the tree's size.
    """
    cosigned = verify_cosigned_checkpoint(proof.checkpoint, policy)
    tree = cosigned.checkpoint
    verify_inclusion(leaf, index=proof.index, size=tree.size, proof=proof.hashes, root=tree.root)
    return VerifiedInclusion(proof.index, leaf, cosigned)


def _field(row: str, label: str) -> str:
    if not row.startswith(label):
        raise MalformedError(f"proof: no line {label.strip()}")
    return row.removeprefix(label)


def _hashes(rows: list[str]) -> tuple[Hash, ...]:
    if len(rows) > MAX_PROOF_HASHES:
        raise MalformedError(f"proof: {len(rows)} hashes, more than {MAX_PROOF_HASHES}")
    return tuple(Hash(base64_bytes(row, what="proof's hash", length=HASH_SIZE)) for row in rows)
