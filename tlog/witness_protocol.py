r"""What logs and witnesses say to each other over HTTP (c2sp.org/tlog-witness): bytes in, values out.

The body of ``POST <submission prefix>/add-checkpoint``::

    old <decimal>\n             the size that the witness is believed to have cosigned last
    <base64 hash>\n             the consistency proof, at most 63
    \n
    <the checkpoint's note, verbatim>

The answer is signature lines of the witness (200), or its size (409, ``text/x.tlog.size``).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from assay.tlog.errors import MalformedError
from assay.tlog.merkle import HASH_SIZE, Hash, as_hash
from assay.tlog.note import NoteSignature, parse_signature_lines
from assay.tlog.strict import MAX_DECIMAL, base64_bytes, base64_text, decimal, lines, utf8_text

MAX_BODY_SIZE = 128 * 1024
"""Bytes of an add-checkpoint request, and of the answer to it."""

MAX_PROOF_HASHES = 63
SIZE_CONTENT_TYPE = "text/x.tlog.size"
_MAX_SIZE_BODY = 20


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request to cosign. ``checkpoint`` is the note's bytes, neither parsed nor verified.

    Raises:
        MalformedError: a size out of range, a hash of another length, or more than 63 hashes.
    """

    old_size: int
    proof: tuple[Hash, ...]
    checkpoint: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.old_size <= MAX_DECIMAL:
            raise MalformedError(f"add-checkpoint: old size {self.old_size} is out of range")
        if len(self.proof) > MAX_PROOF_HASHES:
            raise MalformedError(f"add-checkpoint: {len(self.proof)} hashes, more than {MAX_PROOF_HASHES}")
        for each in self.proof:
            as_hash(each, what="add-checkpoint")


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Parse the request's own lines; :func:`format_add_checkpoint` gives the same bytes back.

    A proof that comes with old size 0 is no fault of the syntax, and parsed.

    Raises:
        MalformedError: another spelling, more than 63 hashes or more than :data:`MAX_BODY_SIZE` bytes.
    """
    if len(body) > MAX_BODY_SIZE:
        raise MalformedError(f"add-checkpoint: longer than {MAX_BODY_SIZE} bytes")
    head, blank, checkpoint = body.partition(b"\n\n")
    if not blank or not checkpoint:
        raise MalformedError("add-checkpoint: no blank line and checkpoint after the proof")
    first, *hashes = lines(utf8_text(head, what="add-checkpoint") + "\n", what="add-checkpoint")
    if not first.startswith("old "):
        raise MalformedError("add-checkpoint: the first line is not an old size")
    if len(hashes) > MAX_PROOF_HASHES:
        raise MalformedError(f"add-checkpoint: more than {MAX_PROOF_HASHES} hashes")
    return AddCheckpoint(
        decimal(first.removeprefix("old "), what="old size"),
        tuple(Hash(base64_bytes(row, what="consistency proof", length=HASH_SIZE)) for row in hashes),
        checkpoint,
    )


def format_add_checkpoint(request: AddCheckpoint) -> bytes:
    """The body of a request; the inverse of :func:`parse_add_checkpoint`.

    Raises:
        MalformedError: longer than a witness has to take.
    """
    hashes = "".join(f"{base64_text(each)}\n" for each in request.proof)
    body = f"old {request.old_size}\n{hashes}\n".encode() + request.checkpoint
    if len(body) > MAX_BODY_SIZE:
        raise MalformedError(f"add-checkpoint: longer than {MAX_BODY_SIZE} bytes")
    return body


def parse_cosignature_lines(body: bytes) -> tuple[NoteSignature, ...]:
    """Parse a witness's answer: one or more signature lines, none of them verified.

    Raises:
        MalformedError: anything else, or more than :data:`MAX_BODY_SIZE` bytes.
    """
    if len(body) > MAX_BODY_SIZE:
        raise MalformedError(f"cosignatures: longer than {MAX_BODY_SIZE} bytes")
    return parse_signature_lines(utf8_text(body, what="cosignatures"))


def format_cosignature_lines(signatures: Sequence[NoteSignature]) -> bytes:
    """The body of a witness's answer; the inverse of :func:`parse_cosignature_lines`."""
    return "".join(signature.line for signature in signatures).encode()


def parse_size_body(body: bytes) -> int:
    r"""Parse the body of a 409: ``<size>\n``, the size in leaves that the witness cosigned last.

    Raises:
        MalformedError: anything else.
    """
    if len(body) > _MAX_SIZE_BODY:
        raise MalformedError("size: too long")
    rows = lines(utf8_text(body, what="size"), what="size")
    if len(rows) != 1:
        raise MalformedError(f"size: {len(rows)} lines, not 1")
    return decimal(rows[0], what="size")


def format_size_body(size: int) -> bytes:
    """The body of a 409; the inverse of :func:`parse_size_body`."""
    return f"{size}\n".encode()


def origin_hash(origin: str) -> str:
    """How a log is named in a witness's monitoring paths: lower-case hex SHA-256 of its origin."""
    return hashlib.sha256(origin.encode()).hexdigest()
