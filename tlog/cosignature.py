"""Timestamped cosignatures of checkpoints and subtrees (c2sp.org/tlog-cosignature).

A cosigner states that the tree is consistent with every earlier one it has seen of the log and, if the
time is not 0, that it was the largest of them at that time.
"""

from dataclasses import dataclass

from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.keys import KeyType, SignerKey, VerifierKey
from assay.tlog.merkle import Hash, as_hash
from assay.tlog.note import NoteSignature
from assay.tlog.proof import is_subtree
from assay.tlog.signed_message import (
    format_timed,
    parse_timed,
    subtree_message,
    timed_text_message,
    verify_text,
)
from assay.tlog.strict import shown
from assay.tlog.tree_head import Checkpoint, check_origin

COSIGNATURE_TYPES = frozenset({KeyType.COSIGNATURE_ED25519, KeyType.COSIGNATURE_ML_DSA_44})


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A cosignature that verified: by which key, at which time (Unix seconds; 0 claims no time)."""

    key: VerifierKey
    time_s: int


@dataclass(frozen=True, slots=True)
class Subtree:
    """The leaves ``[start, end)`` of the log ``origin``, with the hash over them.

    The range must be a subtree as :func:`~assay.tlog.proof.is_subtree` has it.

    Raises:
        MalformedError: no valid subtree.
    """

    origin: str
    start: int
    end: int
    root: Hash

    def __post_init__(self) -> None:
        check_origin(self.origin)
        as_hash(self.root, what="subtree's hash")
        if not is_subtree(self.start, self.end):
            raise MalformedError(f"[{self.start}, {self.end}) is no subtree")


def cosign(checkpoint: Checkpoint, signer: SignerKey, *, time_s: int) -> NoteSignature:
    """Cosign a checkpoint; the caller has checked that it is consistent with what it cosigned before.

    Args:
        checkpoint: the whole tree.
        signer: a key of type 0x04 or 0x06.
        time_s: Unix seconds; 0 claims no time.

    Raises:
        MalformedError: the key's type, the origin or the time cannot be part of a cosignature.
    """
    match signer.type:
        case KeyType.COSIGNATURE_ED25519:
            message = timed_text_message(checkpoint.text, time_s=time_s)
        case KeyType.COSIGNATURE_ML_DSA_44:
            message = subtree_message(
                cosigner=signer.name,
                time_s=time_s,
                origin=checkpoint.origin,
                start=0,
                end=checkpoint.size,
                root=checkpoint.root,
            )
        case _:
            raise MalformedError(f"{signer.type.name} keys make no cosignatures")
    return _signature_line(signer, time_s, message)


def verify_cosignature(checkpoint: Checkpoint, signature: NoteSignature, key: VerifierKey) -> Cosignature:
    """Check one cosignature line of a checkpoint against the key that it must be by.

    Raises:
        UntrustedError: the line is not by ``key``, the key is no cosigner's, or it does not verify.
    """
    _check_cosigner(signature, key)
    return Cosignature(key, verify_text(checkpoint.text, signature.blob, key))


def cosign_subtree(subtree: Subtree, signer: SignerKey, *, time_s: int) -> NoteSignature:
    """Cosign a subtree with an ML-DSA-44 key.

    Args:
        subtree: the range and its hash, which the caller has proved to be part of a tree it cosigned.
        signer: a key of type 0x06.
        time_s: must be 0 unless the subtree starts at 0.

    Raises:
        MalformedError: another key type, or a time that such a cosignature cannot carry.
    """
    if signer.type is not KeyType.COSIGNATURE_ML_DSA_44:
        raise MalformedError("subtrees are cosigned with ML-DSA-44 keys only")
    return _signature_line(signer, time_s, _message_of(subtree, signer.name, time_s))


def verify_subtree_cosignature(subtree: Subtree, signature: NoteSignature, key: VerifierKey) -> Cosignature:
    """Check one cosignature line of a subtree against the key that it must be by.

    Raises:
        UntrustedError: the line is not by ``key``, the key is not ML-DSA-44, or it does not verify.
        MalformedError: another length, or a time on a subtree that does not start at 0.
    """
    _check_cosigner(signature, key)
    if key.type is not KeyType.COSIGNATURE_ML_DSA_44:
        raise UntrustedError("subtrees are cosigned with ML-DSA-44 keys only", code="key-type")
    time_s, bare = parse_timed(signature.blob, key.type)
    key.verify(bare, message=_message_of(subtree, key.name, time_s))
    return Cosignature(key, time_s)


def _message_of(subtree: Subtree, cosigner: str, time_s: int) -> bytes:
    return subtree_message(
        cosigner=cosigner,
        time_s=time_s,
        origin=subtree.origin,
        start=subtree.start,
        end=subtree.end,
        root=subtree.root,
    )


def _signature_line(signer: SignerKey, time_s: int, message: bytes) -> NoteSignature:
    blob = format_timed(time_s, signer.sign(message))
    return NoteSignature(signer.name, signer.verifier.key_id, blob)


def _check_cosigner(signature: NoteSignature, key: VerifierKey) -> None:
    if key.type not in COSIGNATURE_TYPES:
        raise UntrustedError(f"{shown(key.name)} is no cosigner's key", code="key-type")
    if not signature.is_by(key):
        raise UntrustedError(f"the line is not by {shown(key.name)} ({key.key_id.hex()})", code="signature")
