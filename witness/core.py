"""What a witness does with a request: bytes in, cosignature lines out or a typed refusal (c2sp.org/tlog-witness).

No HTTP, no database, no clock: the shell passes the stored state and the time. A witness never looks at an
entry; it only makes sure that there is one history.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from assay.tlog import note, proof, witness_protocol
from assay.tlog.checkpoint import Checkpoint, parse_checkpoint, verify_log_signatures
from assay.tlog.cosignature import cosign
from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.keys import SignerKey, VerifierKey
from assay.tlog.merkle import EMPTY_ROOT
from assay.tlog.note import Note, NoteSignature
from assay.tlog.witness_protocol import AddCheckpoint


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


class SplitViewError(RefusedError):
    """The log signed two trees of one size; ``evidence`` has both of its checkpoints, each signed by it."""

    def __init__(self, evidence: Mapping[str, bytes]) -> None:
        text = "the log has signed another tree of this size"
        super().__init__(text, status=422, code="split-view")
        self.evidence = dict(evidence)


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

        Steps: 1. parse the request and its note (400); 2. the log is known (404); 3. every key of it signed
        (403); 4. the text is a checkpoint (400); 5. no size goes backwards within the request (400); 6. the
        empty tree has its one root (422); 7. the request starts where we are (409); 8. the proof holds, or
        the same size has the same root (422); 9. persist by compare-and-swap; 10. answer. A racer that was
        faster turns 9 into a 409.

        Args:
            body: the request.
            now_s: the clock, Unix seconds, read when the request has proved worth signing.

        Returns:
            This witness's cosignature lines, one for each of its keys.

        Raises:
            RefusedError: with the protocol's status.
        """
        request = _parse_request(body)  # 1
        signed = _parse_note(request.checkpoint)
        origin = signed.text.partition("\n")[0]
        keys = self._logs.get(origin)
        if keys is None:
            raise RefusedError("this witness does not know the log", status=404, code="unknown-log")  # 2
        checkpoint = _signed_by(signed, origin, keys)  # 3, 4
        if request.old_size > checkpoint.size:
            raise RefusedError("the old size is above the new one", status=400, code="old-size")  # 5
        if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
            raise RefusedError("the empty tree has another root", status=422, code="empty-root")  # 6
        newest = self._state.newest(origin)
        size = newest.checkpoint.size if newest else 0
        if request.old_size != size:
            raise ConflictError(size)  # 7
        _check_extends(newest, checkpoint, request)  # 8
        time_s = now_s()
        lines = [cosign(checkpoint, signer, time_s=time_s) for signer in self._signers]
        new = Cosigned(checkpoint, _note_to_keep(signed, keys, lines))
        if not self._state.advance(expected=newest, new=new):  # 9
            current = self._state.newest(origin)
            raise ConflictError(current.checkpoint.size if current else 0)
        return witness_protocol.format_cosignature_lines(lines)  # 10

    def checkpoint(self, origin_hash: str) -> bytes:
        """The newest cosigned checkpoint of the log with this lower-case hex SHA-256 of its origin.

        Raises:
            RefusedError: 404, an unknown log or one that was never cosigned.
        """
        for origin in self._logs:
            if witness_protocol.origin_hash(origin) == origin_hash and (newest := self._state.newest(origin)):
                return newest.note
        raise RefusedError("nothing cosigned for such a log", status=404, code="not-found")


def _parse_request(body: bytes) -> AddCheckpoint:
    try:
        return witness_protocol.parse_add_checkpoint(body)
    except MalformedError as error:
        raise RefusedError(f"malformed request: {error}", status=400, code="malformed") from error


def _parse_note(data: bytes) -> Note:
    try:
        return note.parse_note(data)
    except MalformedError as error:
        # Bytes of a signature in a second spelling are a signature that fails, to other witnesses too.
        status = 403 if error.code == "signature-spelling" else 400
        raise RefusedError(f"malformed checkpoint: {error}", status=status, code=error.code) from error


def _signed_by(signed: Note, origin: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    try:
        verify_log_signatures(signed, origin=origin, log_keys=keys)
        return parse_checkpoint(signed.text)
    except UntrustedError as error:
        text = "the log's keys have not signed this"
        raise RefusedError(text, status=403, code="log-signature") from error
    except MalformedError as error:
        raise RefusedError(f"malformed checkpoint: {error}", status=400, code="malformed") from error


def _check_extends(newest: Cosigned | None, checkpoint: Checkpoint, request: AddCheckpoint) -> None:
    old = newest.checkpoint if newest else Checkpoint(checkpoint.origin, 0, EMPTY_ROOT)
    if newest and old.size == checkpoint.size and old.root != checkpoint.root:
        raise SplitViewError({"cosigned": newest.note, "submitted": request.checkpoint})
    try:
        proof.verify_consistency(
            old_size=old.size,
            old_root=old.root,
            new_size=checkpoint.size,
            new_root=checkpoint.root,
            proof=request.proof,
        )
    except (MalformedError, UntrustedError) as error:
        text = "the checkpoint is not proved to extend the last one"
        raise RefusedError(text, status=422, code="consistency") from error


def _note_to_keep(signed: Note, keys: Sequence[VerifierKey], own: Sequence[NoteSignature]) -> bytes:
    """The note with the log's verified lines and our fresh ones only.

    Whatever other lines came with the request are dropped: one that bears our own name must not get into
    what we show.
    """
    logs = (next(line for line in signed.signatures if line.is_by(key)) for key in keys)
    return note.format_note(Note(signed.text, (*logs, *own)))
