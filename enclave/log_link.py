"""The agent's view of its log: submits entries and believes nothing that does not verify under the measured policy."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from assay.attest import jcs
from assay.attest.receipt import LogHead
from assay.fetch import http
from assay.tlog import merkle, proof, strict, tlog_proof
from assay.tlog.errors import InconsistentError, LogError, MalformedError, UnavailableError, UntrustedError
from assay.tlog.merkle import Hash
from assay.tlog.policy import CosignedCheckpoint, Policy, verify_cosigned_checkpoint
from assay.tlog.tlog_proof import VerifiedInclusion

_TIMEOUT_S = 20.0
_MAX_ANSWER = 1 << 20
_CODE = re.compile(r"[a-z0-9-]{1,64}")
_HEAD_AGE_S = 2.0
"""How long a verified head is used again: what a receipt calls newest may be this old."""


class RefusedError(UntrustedError):
    """The log says that it will not take an entry, for a reason that has a code; asking again changes nothing."""


@dataclass(frozen=True, slots=True)
class _Head:
    """A verified checkpoint, the bytes that it was verified from, and when."""

    fetched_s: float
    data: bytes
    cosigned: CosignedCheckpoint


@dataclass(frozen=True, slots=True)
class LoggedEntry:
    """An entry that is in the log, with the proof that this is so, verified."""

    index: int
    leaf: bytes
    leaf_hash: Hash
    proof: str


class LogLink:
    """One log.

    Args:
        url: where the host says it is.
        policy: measured; names the log and its witnesses.
        monotonic_s: a clock for the age of the head.
    """

    def __init__(
        self, url: str, *, policy: Policy, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url.rstrip("/")
        self._policy = policy
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._head: _Head | None = None

    def submit(self, data: bytes) -> LoggedEntry:
        """Submit an entry and wait until its witnesses have seen it; twice is harmless.

        Raises:
            UnavailableError: the log or its quorum does not answer.
            RefusedError: the log refuses the entry (the log's code).
            MalformedError, UntrustedError: it proves nothing, or something else.
        """
        wait = "witnessed" if self._policy.quorum is not None else "integrated"
        response = http.request(
            "POST",
            f"{self._url}/api/v1/entries?wait={wait}",
            body=data,
            timeout_s=_TIMEOUT_S,
            max_bytes=_MAX_ANSWER,
        )
        answer = _object(response.body)
        if response.status >= 500 or response.status == 429:
            raise UnavailableError(
                f"the log answers {response.status} {strict.shown(str(answer.get('code')))}"
            )
        if response.status not in (200, 201):
            raise _refusal(response.status, answer)
        leaf, text = answer.get("leaf"), answer.get("proof")
        if not isinstance(leaf, str) or not isinstance(text, str):
            raise MalformedError("the log answers without leaf and proof")
        return self.verify(strict.base64_bytes(leaf, what="leaf"), text)

    def verify(self, leaf: bytes, proof_text: str) -> LoggedEntry:
        """Verify the proof of a leaf under the measured policy.

        Raises:
            MalformedError, UntrustedError: it does not verify.
        """
        leaf_hash = merkle.leaf_hash(leaf)
        parsed = tlog_proof.parse_proof(proof_text.encode())
        verified: VerifiedInclusion = tlog_proof.verify_proof(parsed, leaf=leaf_hash, policy=self._policy)
        return LoggedEntry(verified.index, leaf, leaf_hash, proof_text)

    def head(self) -> LogHead:
        """The newest checkpoint: verified, and consistent with every earlier one of this boot.

        Raises:
            UnavailableError: the log does not answer.
            UntrustedError: its checkpoint does not verify under the policy.
            InconsistentError: it contradicts one that was seen before; carries both.
        """
        with self._lock:
            now_s = self._monotonic_s()
            if self._head is None or now_s - self._head.fetched_s > _HEAD_AGE_S:
                self._head = self._fetch_head(self._head, now_s)
            cosigned = self._head.cosigned
        newest_s = max((each.time_s for each in cosigned.cosignatures), default=0)
        return LogHead(cosigned.checkpoint.size, cosigned.checkpoint.root, newest_s)

    def _fetch_head(self, seen: _Head | None, now_s: float) -> _Head:
        data = self._get("/checkpoint")
        head = _Head(now_s, data, verify_cosigned_checkpoint(data, self._policy))
        if seen is not None:
            self._verify_grown(seen, head)
        return head

    def _verify_grown(self, seen: _Head, new: _Head) -> None:
        old, now = seen.cosigned.checkpoint, new.cosigned.checkpoint
        if now.size < old.size:
            raise UnavailableError("the log shows an older checkpoint than before")
        hashes: list[Hash] = []
        if 0 < old.size < now.size:
            answer = _object(self._get(f"/api/v1/consistency?from={old.size}&to={now.size}"))
            hashes = _hashes(answer.get("hashes"))
        try:
            proof.verify_consistency(
                old_size=old.size, old_root=old.root, new_size=now.size, new_root=now.root, proof=hashes
            )
        except LogError as error:
            raise InconsistentError(
                "the log's checkpoint is not proved to extend the one seen before",
                evidence={"seen": seen.data, "new": new.data},
            ) from error

    def _get(self, path: str) -> bytes:
        response = http.request("GET", self._url + path, timeout_s=_TIMEOUT_S, max_bytes=_MAX_ANSWER)
        if response.status != 200:
            raise UnavailableError(f"the log answers {response.status} for {path}")
        return response.body


def _object(data: bytes) -> dict[str, object]:
    try:
        value = jcs.parse_json(data, what="the log's answer", max_bytes=_MAX_ANSWER)
    except MalformedError as error:
        raise UnavailableError("the log answers with no JSON") from error
    if not isinstance(value, dict):
        raise UnavailableError("the log answers with no JSON object")
    return value


def _refusal(status: int, answer: dict[str, object]) -> LogError:
    """A refusal has a code; whatever else answers in the log's place is not the log."""
    code = answer.get("code")
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return UnavailableError(f"the log answers {status} without a code")
    detail = strict.shown(str(answer.get("detail")), 200)
    return RefusedError(f"the log refuses the entry: {detail}", code=code)


def _hashes(value: object) -> list[Hash]:
    if not isinstance(value, list) or len(value) > 64:
        raise MalformedError("the log answers without a consistency proof")
    return [
        merkle.as_hash(strict.base64_bytes(str(item), what="consistency proof"), what="consistency proof")
        for item in value
    ]
