"""What a witness does with a request: bytes in, cosignature lines out or a typed refusal (c2sp.org/tlog-witness).

No HTTP, no database, no clock: the shell passes the stored state and the time. A witness never looks at an
entry; it only makes sure that there is one history.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from assay.tlog import note, proof, witness_protocol
from assay.tlog.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    parse_signed_checkpoint,
    verify_signed_checkpoint,
)
from assay.tlog.cosignature import cosign
from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.keys import SignerKey, VerifierKey
from assay.tlog.merkle import EMPTY_ROOT, Hash
from assay.tlog.note import Note, NoteSignature


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The newest checkpoint of one log that this witness cosigned: ``note`` has the log's and its own lines."""

    checkpoint: Checkpoint
    note: bytes


class State(Protocol):
    """The witness's memory, one checkpoint a log."""

    def newest(self, origin: str) -> Cosigned | None:
        """The newest cosigned checkpoint of a log, or None if it was never cosigned."""
        ...

    def advance(self, *, expected: Cosigned | None, new: Cosigned) -> bool:
        """Replace ``expected`` by ``new`` durably, in one atomic step; false if something else stands there."""
        ...


class RefusedError(LogError):
    """A request that the protocol refuses; ``status`` is the HTTP status that says so."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message, code=code)
        self.status = status


class ConflictError(RefusedError):
    """The request starts from another size than the one last cosigned, which is ``size``."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the size last cosigned is {size}", status=409, code="conflict")
        self.size = size


class Witness:
    """One witness: its keys, the logs that it knows, its memory.

    Args:
        signers: its keys, all of one name.
        logs: origin -> the log's keys, every one of which must have signed.
        state: its memory.

    Raises:
        ValueError: no keys, keys of several names, or a log of the witness's own name.
    """

    def __init__(
        self,
        *,
        signers: Sequence[SignerKey],
        logs: Mapping[str, Sequence[VerifierKey]],
        state: State,
    ) -> None:
        if len({signer.name for signer in signers}) != 1:
            raise ValueError("a witness has keys of one name")
        if signers[0].name in logs:
            raise ValueError(f"{signers[0].name!r} is the witness's own name, not a log's")
        self._signers = tuple(signers)
        self._logs = {origin: tuple(keys) for origin, keys in logs.items()}
        self._state = state

    @property
    def vkeys(self) -> tuple[str, ...]:
        """The witness's public keys."""
        return tuple(str(signer.verifier) for signer in self._signers)

    def add_checkpoint(self, body: bytes, *, now_s: Callable[[], int]) -> bytes:
        """Cosign a checkpoint that extends the last one.

        Steps: 1. parse (400); 2. the log is known (404); 3. every key of it signed (403); 4. no size goes
        backwards within the request (400); 5. the empty tree has its one root (422); 6. the request starts
        where we are (409); 7. the proof holds, or the same size has the same root (422); 8. persist by
        compare-and-swap; 9. answer. A racer that was faster turns 8 into a 409.

        Args:
            body: the request.
            now_s: the clock, Unix seconds, read when the request has proved worth signing.

        Returns:
            This witness's cosignature lines, one for each of its keys.

        Raises:
            RefusedError: with the protocol's status.
        """
        request = self._parse(body)  # 1
        signed = self._signed_checkpoint(request.checkpoint)
        checkpoint = signed.checkpoint
        keys = self._logs.get(checkpoint.origin)
        if keys is None:
            raise RefusedError("this witness does not know the log", status=404, code="unknown-log")  # 2
        try:
            verify_signed_checkpoint(signed, log_keys=keys)  # 3
        except LogError as error:
            raise RefusedError(
                "the log's keys have not signed this", status=403, code="log-signature"
            ) from error
        if request.old_size > checkpoint.size:
            raise RefusedError("the old size is above the new one", status=400, code="old-size")  # 4
        if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
            raise RefusedError("the empty tree has another root", status=422, code="empty-root")  # 5
        newest = self._state.newest(checkpoint.origin)
        size = newest.checkpoint.size if newest else 0
        if request.old_size != size:
            raise ConflictError(size)  # 6
        self._verify_extends(newest, checkpoint, request.proof)  # 7
        lines = [cosign(checkpoint, signer, time_s=now_s()) for signer in self._signers]
        new = Cosigned(checkpoint, self._stored_note(signed.note, keys, lines))
        if not self._state.advance(expected=newest, new=new):  # 8
            current = self._state.newest(checkpoint.origin)
            raise ConflictError(current.checkpoint.size if current else 0)
        return witness_protocol.format_cosignature_lines(lines)  # 9

    def checkpoint(self, origin_hash: str) -> bytes:
        """The newest cosigned checkpoint of the log with this lower-case hex SHA-256 of its origin.

        Raises:
            RefusedError: 404, an unknown log or one that was never cosigned.
        """
        for origin in self._logs:
            if witness_protocol.origin_hash(origin) == origin_hash and (newest := self._state.newest(origin)):
                return newest.note
        raise RefusedError("nothing cosigned for such a log", status=404, code="not-found")

    def _parse(self, body: bytes) -> witness_protocol.AddCheckpoint:
        try:
            return witness_protocol.parse_add_checkpoint(body)
        except MalformedError as error:
            raise RefusedError(f"malformed request: {error}", status=400, code="malformed") from error

    def _signed_checkpoint(self, data: bytes) -> SignedCheckpoint:
        try:
            return parse_signed_checkpoint(data)
        except MalformedError as error:
            raise RefusedError(f"malformed checkpoint: {error}", status=400, code="malformed") from error

    def _verify_extends(self, newest: Cosigned | None, checkpoint: Checkpoint, path: Sequence[Hash]) -> None:
        old = newest.checkpoint if newest else Checkpoint(checkpoint.origin, 0, EMPTY_ROOT)
        try:
            proof.verify_consistency(
                old_size=old.size,
                old_root=old.root,
                new_size=checkpoint.size,
                new_root=checkpoint.root,
                proof=list(path),
            )
        except (MalformedError, UntrustedError) as error:
            raise RefusedError(
                "the checkpoint is not proved to extend the last one", status=422, code="consistency"
            ) from error

    def _stored_note(self, signed: Note, keys: Sequence[VerifierKey], own: Sequence[NoteSignature]) -> bytes:
        """The note with the log's verified lines and our fresh ones only.

        Whatever other lines came with the request are dropped: one that bears our own name must not get
        into what we show.
        """
        logs = (next(line for line in signed.signatures if line.is_by(key)) for key in keys)
        return note.format_note(Note(signed.text, (*logs, *own)))
