"""A client of the log's own HTTP interface, ``/api/v1``, which believes only what verifies.

A submission is done when the returned leaf is what was submitted and its proof verifies under the policy.
What is looked up comes back as bytes; proofs and hashes are checked by whoever uses them, except that a blob
is always the one that was asked for.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from assay.attest import entry
from assay.attest.bundle import Logged
from assay.attest.entry import EnclaveSubmission, Registration
from assay.fetch import http
from assay.tlog import merkle, strict, tlog_proof
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError
from assay.tlog.merkle import Hash
from assay.tlog.policy import Policy
from assay.tlog.tlog_proof import TlogProof, VerifiedInclusion, verify_proof

TIMEOUT_S = 30.0
"""For one request; a log waits a few seconds of it for its witnesses."""

MAX_FOUND = 1000
"""How many entries one search looks at."""

_PAGE = 20
_MAX_ANSWER_SIZE = 8 << 20
_MAX_BLOB_SIZE = 1 << 20
_MAX_CHECKPOINT_SIZE = 65_536
_CODE = re.compile(r"[a-z0-9-]{1,64}")
_FIRST_WINDOW = 64
_ERRORS: Mapping[int, type[LogError]] = {400: MalformedError, 403: UntrustedError, 413: MalformedError}


@dataclass(frozen=True, slots=True)
class Submitted:
    """An entry that is in the log; its proof verified."""

    logged: Logged
    included: VerifiedInclusion

    @property
    def index(self) -> int:
        """Where it is, 0-based."""
        return self.included.index


@dataclass(frozen=True, slots=True)
class Found:
    """An entry as the log shows it; nothing is verified."""

    index: int
    leaf: bytes


class LogClient:
    """One log.

    Args:
        url: its address, without the ``/api/v1``.
        policy: by which its checkpoints are judged.
        timeout_s: for each request.
    """

    def __init__(self, url: str, *, policy: Policy, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._policy = policy
        self._timeout_s = timeout_s

    def submit(self, data: bytes) -> Submitted:
        """Have the log take in one entry and prove it; submitting the same entry twice is success.

        Waits for the witnesses, if the policy asks for any.

        Raises:
            LogError: the log refused it (with the log's code), or does not answer.
            UnavailableError: it is in the log, but not witnessed in time (code ``quorum-unavailable``).
            UntrustedError: the log logged something else (code ``other-leaf``), or its proof does not verify.
        """
        wait = "integrated" if self._policy.quorum is None else "witnessed"
        answer = self._json("POST", "/api/v1/entries", {"wait": wait}, body=data)
        leaf = _base64(answer, "leaf")
        _require_same_entry(data, leaf)
        logged = Logged(leaf, tlog_proof.parse_proof(_text(answer, "proof").encode()))
        return Submitted(logged, verify_proof(logged.proof, leaf=merkle.leaf_hash(leaf), policy=self._policy))

    def known(self, data: bytes) -> Submitted:
        """An entry that is in the log already, with the earliest proof that the log can show.

        Raises:
            UnavailableError: it is not there (code ``not-found``), or no answer.
            LogError: its proof does not verify.
        """
        leaf_hash = merkle.leaf_hash(data)
        index = self.leaf(leaf_hash).index
        proof = self.prove(index, size=self.first_published_size(index))
        return Submitted(Logged(data, proof), verify_proof(proof, leaf=leaf_hash, policy=self._policy))

    def leaf(self, leaf_hash: Hash) -> Found:
        """The entry of a leaf hash.

        Raises:
            UntrustedError: the log shows another (code ``other-leaf``).
            LogError: it has none, or does not answer.
        """
        found = _found(self._json("GET", f"/api/v1/leaves/{leaf_hash.hex()}"))
        if merkle.leaf_hash(found.leaf) != leaf_hash:
            raise UntrustedError("the log shows another leaf than was asked for", code="other-leaf")
        return found

    def prove(self, index: int, *, size: int | None = None) -> TlogProof:
        """A proof of an entry, against the newest published checkpoint or the one of a size; unverified.

        Raises:
            LogError: the log has none, or does not answer.
        """
        query = {} if size is None else {"size": str(size)}
        data = self._get(f"/api/v1/entries/{index}/proof", query, max_bytes=tlog_proof.MAX_PROOF_SIZE)
        return tlog_proof.parse_proof(data)

    def first_published_size(self, index: int) -> int | None:
        """The size of the first published checkpoint that covers an entry, if the log has one close behind it.

        Raises:
            LogError: the log does not answer.
        """
        query = {"before": str(index + 1 + _FIRST_WINDOW), "limit": str(_FIRST_WINDOW)}
        answer = self._json("GET", "/api/v1/checkpoints", query)
        rows = [row for row in _list(answer, "checkpoints") if row.get("published") is not None]
        sizes = [_integer(row, "size") for row in rows]
        return min((size for size in sizes if size > index), default=None)

    def search(self, terms: Mapping[str, str]) -> Iterator[Found]:
        """Entries by their index terms, newest first; a log may leave some out, and only a monitor notices.

        Raises:
            LogError: the log does not answer.
        """
        before: int | None = None
        for _ in range(MAX_FOUND // _PAGE):
            query = {**terms, "limit": str(_PAGE)} | ({} if before is None else {"before": str(before)})
            answer = self._json("GET", "/api/v1/entries", query)
            yield from (_found(row) for row in _list(answer, "entries"))
            if answer.get("before") is None:
                return
            following = _integer(answer, "before")
            if before is not None and following >= before:
                raise MalformedError("the log's pages do not end", code="log-answer")
            before = following

    def blob(self, sha256: bytes) -> bytes:
        """Evidence beside the log, by its hash.

        Raises:
            UntrustedError: the log shows other bytes (code ``other-blob``).
            LogError: it has none, or does not answer.
        """
        data = self._get(f"/api/v1/blobs/sha256/{sha256.hex()}", {}, max_bytes=_MAX_BLOB_SIZE)
        if hashlib.sha256(data).digest() != sha256:
            raise UntrustedError("the log shows another blob than was asked for", code="other-blob")
        return data

    def checkpoint(self) -> bytes:
        """The newest published checkpoint, unverified.

        Raises:
            LogError: there is none, or no answer.
        """
        return self._get("/checkpoint", {}, max_bytes=_MAX_CHECKPOINT_SIZE)

    def _json(
        self, method: str, path: str, query: Mapping[str, str] | None = None, *, body: bytes | None = None
    ) -> dict[str, Any]:
        data = self._request(method, path, query or {}, body=body, max_bytes=_MAX_ANSWER_SIZE)
        return _json_object(data)

    def _get(self, path: str, query: Mapping[str, str], *, max_bytes: int) -> bytes:
        return self._request("GET", path, query, body=None, max_bytes=max_bytes)

    def _request(
        self, method: str, path: str, query: Mapping[str, str], *, body: bytes | None, max_bytes: int
    ) -> bytes:
        url = f"{self._url}{path}" + (f"?{urlencode(query)}" if query else "")
        response = http.request(
            method,
            url,
            body=body,
            headers={} if body is None else {"Content-Type": "application/json"},
            timeout_s=self._timeout_s,
            max_bytes=max_bytes,
        )
        if response.status not in (200, 201):
            raise _refusal(response)
        return response.body


def _refusal(response: http.Response) -> LogError:
    """The error that a problem document (RFC 9457) stands for; its words are the log's, not ours."""
    try:
        problem = _json_object(response.body)
    except MalformedError:
        problem = {}
    code, detail = problem.get("code"), problem.get("detail")
    kind = _ERRORS.get(response.status, UnavailableError)
    known = code if isinstance(code, str) and _CODE.fullmatch(code) else "log-answer"
    said = strict.shown(detail, 300) if isinstance(detail, str) else "no reason given"
    return kind(f"the log answers {response.status}: {said}", code=known)


def _require_same_entry(sent: bytes, leaf: bytes) -> None:
    """What was logged is what was sent; to an enclave's evidence, and to it alone, the log adds its appraisal."""
    if leaf == sent:
        return
    submitted, logged = entry.parse_entry(sent), entry.parse_entry(leaf)
    same = (
        isinstance(submitted, EnclaveSubmission)
        and isinstance(logged, Registration)
        and submitted.evidence == logged.evidence
    )
    if not same:
        raise UntrustedError("the log logged something else than was submitted", code="other-leaf")


def _json_object(data: bytes) -> dict[str, Any]:
    """An object from a log's JSON, which may hold floats and members that this client does not know."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError("the log's answer is not JSON", code="log-answer") from error
    if not isinstance(value, dict):
        raise MalformedError("the log's answer is no JSON object", code="log-answer")
    return value


def _found(row: Mapping[str, Any]) -> Found:
    return Found(_integer(row, "index"), _base64(row, "leaf"))


def _list(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    rows = value.get(key)
    if not isinstance(rows, list) or any(not isinstance(row, dict) for row in rows):
        raise MalformedError(f"the log's answer has no list {key!r}", code="log-answer")
    return rows


def _integer(value: Mapping[str, Any], key: str) -> int:
    number = value.get(key)
    if type(number) is not int or number < 0:
        raise MalformedError(f"the log's answer has no number {key!r}", code="log-answer")
    return number


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or any("\ud800" <= char <= "\udfff" for char in text):
        raise MalformedError(f"the log's answer has no text {key!r}", code="log-answer")
    return text


def _base64(value: Mapping[str, Any], key: str) -> bytes:
    return strict.base64_bytes(_text(value, key), what=key)
