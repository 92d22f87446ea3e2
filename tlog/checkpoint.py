"""Checkpoints in signed notes: parse, sign, verify (c2sp.org/tlog-checkpoint v1.0.0).

A log signs with an Ed25519 key (0x01) and an ML-DSA-44 key (0x06), both under its origin's name. The
text alone, :class:`Checkpoint` and :func:`parse_checkpoint`, lives in ``tree_head`` and is passed on here.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from assay.tlog.cosignature import cosign
from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.keys import KeyType, SignerKey, VerifierKey
from assay.tlog.merkle import EMPTY_ROOT
from assay.tlog.note import Note, NoteSignature, format_note, parse_note, verify_note
from assay.tlog.strict import shown
from assay.tlog.tree_head import Checkpoint, parse_checkpoint

__all__ = [
    "LOG_KEY_TYPES",
    "Checkpoint",
    "SignedCheckpoint",
    "parse_checkpoint",
    "parse_signed_checkpoint",
    "sign_checkpoint",
    "verify_checkpoint",
    "verify_log_signatures",
    "verify_signed_checkpoint",
]

LOG_KEY_TYPES = frozenset({KeyType.ED25519, KeyType.ECDSA, KeyType.COSIGNATURE_ML_DSA_44})
"""What a log may sign with. Not 0x04: that type does not bind the name, so it is left to witnesses."""


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint and the note that carries it; neither is verified."""

    checkpoint: Checkpoint
    note: Note

    @property
    def data(self) -> bytes:
        """The note's bytes."""
        return format_note(self.note)


@functools.lru_cache(maxsize=16)
def parse_signed_checkpoint(data: bytes) -> SignedCheckpoint:
    """Parse a checkpoint's note. Nothing is verified: neither a signature nor who the log is.

    The last few are remembered: a log gives the proofs of many entries under one checkpoint.

    Raises:
        MalformedError: no note, or its text is no checkpoint, or it has extension lines.
    """
    note = parse_note(data)
    return SignedCheckpoint(parse_checkpoint(note.text), note)


def sign_checkpoint(checkpoint: Checkpoint, signers: Sequence[SignerKey], *, time_s: int) -> Note:
    """Sign a log's own checkpoint, a line per key in the order given.

    Args:
        checkpoint: what the log states; it must be consistent with all that it signed before.
        signers: keys of types 0x01 and 0x06 whose name is the origin; at least one.
        time_s: Unix seconds, carried by the 0x06 line.

    Raises:
        MalformedError: another key name or type, or a checkpoint that no verifier would take.
    """
    _check_empty_root(checkpoint)
    return Note(checkpoint.text, tuple(_sign(checkpoint, signer, time_s) for signer in signers))


def verify_checkpoint(data: bytes, *, log_keys: Sequence[VerifierKey]) -> Checkpoint:
    """Parse a checkpoint's note and check that the log signed it with every one of ``log_keys``.

    Raises:
        MalformedError: no checkpoint note.
        UntrustedError: as :func:`verify_signed_checkpoint`.
    """
    return verify_signed_checkpoint(parse_signed_checkpoint(data), log_keys=log_keys)


def verify_signed_checkpoint(signed: SignedCheckpoint, *, log_keys: Sequence[VerifierKey]) -> Checkpoint:
    """Check a parsed checkpoint against every one of the log's keys; cosignatures are not looked at.

    Raises:
        UntrustedError: no keys at all (code ``no-log-keys``), an origin that is not the keys' name
            (``origin``), a key that no log may have (``key-type``), a key that did not sign
            (``missing-signature``) or signed badly (``signature``), or a root that the empty tree has
            not got (``empty-root``).
    """
    checkpoint = signed.checkpoint
    verify_log_signatures(signed.note, origin=checkpoint.origin, log_keys=log_keys)
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        text = f"checkpoint of {shown(checkpoint.origin)}: no leaves, but not the empty root"
        raise UntrustedError(text, code="empty-root")
    return checkpoint


def verify_log_signatures(note: Note, *, origin: str, log_keys: Sequence[VerifierKey]) -> None:
    """Check that every one of ``log_keys`` signed a note that claims to be of ``origin``.

    For a witness, which has to know whether the log itself said so before it looks at what was said.

    Raises:
        UntrustedError: as :func:`verify_signed_checkpoint`, but for ``empty-root``.
        MalformedError: an ML-DSA-44 key's line on a text that is no checkpoint.
    """
    if not log_keys:
        raise UntrustedError(f"no keys for the log {shown(origin)}", code="no-log-keys")
    for key in log_keys:
        _check_log_key(key, origin)
    verified = verify_note(note, log_keys).keys
    for key in log_keys:
        if key not in verified:
            text = f"checkpoint of {shown(key.name)}: not signed by key {key.key_id.hex()}"
            raise UntrustedError(text, code="missing-signature")


def _check_log_key(key: VerifierKey, origin: str) -> None:
    if key.name != origin:
        text = f"checkpoint of {shown(origin)}: the log's key is named {shown(key.name)}"
        raise UntrustedError(text, code="origin")
    if key.type not in LOG_KEY_TYPES:
        text = f"key {key.key_id.hex()} of {shown(origin)} is not of a type that logs sign with"
        raise UntrustedError(text, code="key-type")


def _sign(checkpoint: Checkpoint, signer: SignerKey, time_s: int) -> NoteSignature:
    if signer.name != checkpoint.origin:
        raise MalformedError(f"the key {shown(signer.name)} is not the origin {shown(checkpoint.origin)}")
    if signer.type is KeyType.ED25519:
        blob = signer.sign(checkpoint.text.encode())
        return NoteSignature(signer.name, signer.verifier.key_id, blob)
    if signer.type is KeyType.COSIGNATURE_ML_DSA_44:
        return cosign(checkpoint, signer, time_s=time_s)
    raise MalformedError(f"{signer.type.name} keys sign no checkpoints")


def _check_empty_root(checkpoint: Checkpoint) -> None:
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise MalformedError("a checkpoint without leaves has the empty root", code="empty-root")
