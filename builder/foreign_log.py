"""Whether leaves that were imported are those of a log: its checkpoint's signature, inclusion proofs or the whole tree.

The key is the caller's. Unlike Assay's own logs, such a log may sign under a name that is not its origin, so both are
reported. Proofs come in a JSON file, ``{"leaves": [{"index", "inclusion_proof": [base64], "leaf_hash": hex}]}`` with
any other members; only the hashes in it are used, and none is believed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.attest import jcs
from assay.tlog import merkle, note, proof, strict, tree_head
from assay.tlog.checkpoint import LOG_KEY_TYPES
from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.keys import VerifierKey
from assay.tlog.merkle import Hash
from assay.tlog.tree_head import Checkpoint

MAX_PROOFS_SIZE = 256 << 20
_MAX_PROOF_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows that a leaf is in a log: its place and the path to the root."""

    index: int
    path: tuple[Hash, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a leaf is in the log; ``index`` None: not shown to be there, for the reason given."""

    index: int | None
    reason: str


def verify_foreign_checkpoint(data: bytes, key: VerifierKey) -> Checkpoint:
    """Verify that the key signed a checkpoint, under whatever origin.

    Raises:
        MalformedError: no checkpoint.
        UntrustedError: not signed by the key, or the key is of a type that logs do not sign with (code ``key-type``).
    """
    if key.type not in LOG_KEY_TYPES:
        raise UntrustedError("the key is not of a type that logs sign with", code="key-type")
    signed = note.verify_note(note.parse_note(data), [key])
    return tree_head.parse_checkpoint(signed.note.text)


def parse_proofs(data: bytes) -> dict[Hash, Proof]:
    """Read a file of inclusion proofs.

    Raises:
        MalformedError: too large, not JSON, or malformed.
    """
    value = jcs.parse_json(data, what="proofs", max_bytes=MAX_PROOFS_SIZE)
    leaves = value.get("leaves") if isinstance(value, dict) else None
    if not isinstance(leaves, list):
        raise MalformedError("proofs: no list of leaves")
    return dict(_parse_proof(item) for item in leaves)


def place_by_proofs(
    hashes: Sequence[Hash], proofs: Mapping[Hash, Proof], checkpoint: Checkpoint
) -> list[Placed]:
    """Where each leaf is in the log, by its proof."""
    return [_place(leaf, proofs.get(leaf), checkpoint) for leaf in hashes]


def place_whole_log(hashes: Sequence[Hash], checkpoint: Checkpoint) -> list[Placed]:
    """Where each leaf is, if these are all leaves of the log in their order.

    Raises:
        UntrustedError: they are not (code ``other-tree``).
    """
    if len(hashes) != checkpoint.size:
        raise UntrustedError(
            f"{len(hashes)} leaves, but the log has {checkpoint.size}; name their proofs", code="other-tree"
        )
    if merkle.root_of(hashes) != checkpoint.root:
        raise UntrustedError("the leaves have another root than the checkpoint", code="other-tree")
    return [Placed(index, "") for index in range(len(hashes))]


def _place(leaf: Hash, found: Proof | None, checkpoint: Checkpoint) -> Placed:
    if found is None:
        return Placed(None, "no proof of it")
    try:
        proof.verify_inclusion(
            leaf, index=found.index, size=checkpoint.size, proof=found.path, root=checkpoint.root
        )
    except LogError as error:
        return Placed(None, str(error))
    return Placed(found.index, "")


def _parse_proof(item: Any) -> tuple[Hash, Proof]:
    match item:
        case {"index": int(index), "leaf_hash": str(leaf), "inclusion_proof": list(path)} if not isinstance(
            index, bool
        ):
            digest = strict.hex_bytes(leaf, what="proofs.leaf_hash", length=32)
            return Hash(digest), Proof(
                index, tuple(_parse_hash(each) for each in path[: _MAX_PROOF_LENGTH + 1])
            )
        case _:
            raise MalformedError("proofs: not {index, leaf_hash, inclusion_proof}")


def _parse_hash(item: object) -> Hash:
    if not isinstance(item, str):
        raise MalformedError("proofs.inclusion_proof: not text")
    return Hash(strict.base64_bytes(item, what="proofs.inclusion_proof", length=32))
