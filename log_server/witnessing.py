"""Witnesses as the log meets them: who they are, what they have cosigned, and asking one of them."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from assay.fetch import http
from assay.log_server import anchor as anchors
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.store import Store
from assay.tlog import note, proof, witness_protocol
from assay.tlog.checkpoint import Checkpoint, parse_signed_checkpoint, verify_signed_checkpoint
from assay.tlog.cosignature import Cosignature, verify_cosignature
from assay.tlog.errors import LogError, StaleError, UnavailableError, UntrustedError
from assay.tlog.keys import VerifierKey
from assay.tlog.note import NoteSignature, verify_note
from assay.tlog.policy import Policy
from assay.tlog.witness_protocol import AddCheckpoint

_log = structlog.get_logger("witnessing")

_CLOCK_TOLERANCE_S = 600
"""How far a cosignature's time may be from our clock. A time of 0, which claims nothing, is far off."""

_MAX_ANSWER_SIZE = 65_536
"""Of a witness's answer, or of the checkpoint that it shows: some dozen ML-DSA-44 lines."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness as the log meets it: one address, all of its keys in the policy."""

    url: str
    keys: tuple[VerifierKey, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A verified cosignature and its line."""

    cosignature: Cosignature
    signature: NoteSignature


def witnesses_of(policy: Policy) -> tuple[Witness, ...]:
    """The policy's witnesses by address.

    Raises:
        UntrustedError: a witness without an address cannot be asked (code ``witness-url``).
    """
    by_url: dict[str, list[VerifierKey]] = {}
    for witness in policy.witnesses:
        if witness.url is None:
            raise UntrustedError(f"witness {witness.name!r} of the policy has no URL", code="witness-url")
        by_url.setdefault(witness.url.rstrip("/"), []).append(witness.key)
    return tuple(Witness(url, tuple(keys)) for url, keys in by_url.items())


class WitnessClient:
    """Asks one witness for cosignatures, and remembers the size that it last cosigned.

    Args:
        witness: who is asked.
        store: the log's tiles, and the cosignatures that are kept.
        timeout_s: for one answer, with all that is asked for it.
    """

    def __init__(self, witness: Witness, *, store: Store, timeout_s: float) -> None:
        self.witness = witness
        self.timeout_s = timeout_s
        self._store = store
        self._cosigned_size = 0
        self.recall()

    def recall(self) -> None:
        """Remember what is kept: this process, or another, may have had it cosigned before."""
        kept = [self._store.cosigned_size(key.name, key.key_id) for key in self.witness.keys]
        self._cosigned_size = max(kept, default=0)

    def cosign(self, signed: StoredCheckpoint, checkpoint: Checkpoint, *, now_ms: int) -> list[Kept]:
        """Have a checkpoint cosigned.

        Raises:
            UnavailableError: no answer, or a refusal; code ``witness-ahead`` if it claims to know a larger tree.
            MalformedError, UntrustedError, StaleError: an answer that is not this witness's cosignature of now.
        """
        deadline_s = time.monotonic() + self.timeout_s
        old_size = min(self._cosigned_size, signed.size)
        response = self._offer(signed, old_size=old_size, deadline_s=deadline_s)
        if response.status == 409:
            claimed = self._claimed_size(response.body, signed)
            response = self._offer(signed, old_size=claimed, deadline_s=deadline_s)
        if response.status != 200:
            raise UnavailableError(
                f"{self.witness.url} answers HTTP {response.status}: {response.body[:100]!r}"
            )
        kept = self._verified(response.body, checkpoint, now_s=now_ms // 1000)
        self._cosigned_size = signed.size
        return kept

    def newest(self, origin: str) -> bytes | None:
        """The newest checkpoint of a log that this witness shows, or None if it has none.

        Raises:
            UnavailableError: no answer.
        """
        url = f"{self.witness.url}/{witness_protocol.origin_hash(origin)}/checkpoint"
        response = http.request("GET", url, timeout_s=self.timeout_s, max_bytes=_MAX_ANSWER_SIZE)
        if response.status == 404:
            return None
        if response.status != 200:
            raise UnavailableError(f"{url}: HTTP {response.status}")
        return response.body

    def _claimed_size(self, body: bytes, signed: StoredCheckpoint) -> int:
        """The size that a conflict names. It is no evidence: it is tried once, and neither believed nor kept."""
        claimed = witness_protocol.parse_size_body(body)
        if claimed > signed.size:
            _log.error(
                "witness claims a larger tree", witness=self.witness.url, claimed=claimed, size=signed.size
            )
            raise UnavailableError(
                f"{self.witness.url} claims to have cosigned size {claimed}, without showing it",
                code="witness-ahead",
            )
        if claimed < self._cosigned_size:
            _log.error(
                "witness went back", witness=self.witness.url, claimed=claimed, was=self._cosigned_size
            )
        return claimed

    def _verified(self, body: bytes, checkpoint: Checkpoint, *, now_s: int) -> list[Kept]:
        kept = [
            Kept(verify_cosignature(checkpoint, signature, key), signature)
            for signature in witness_protocol.parse_cosignature_lines(body)
            for key in self.witness.keys
            if signature.is_by(key)
        ]
        if not kept:
            raise UntrustedError(f"{self.witness.url} answers without a cosignature by a key of the policy")
        for item in kept:
            if abs(item.cosignature.time_s - now_s) > _CLOCK_TOLERANCE_S:
                raise StaleError(
                    f"{self.witness.url} cosigns with the time {item.cosignature.time_s}, which is not now",
                    code="cosignature-time",
                )
        return kept

    def _offer(self, signed: StoredCheckpoint, *, old_size: int, deadline_s: float) -> http.Response:
        with self._store.hashes() as hashes:
            path = proof.prove_consistency(old_size=old_size, new_size=signed.size, reader=hashes)
        body = witness_protocol.format_add_checkpoint(AddCheckpoint(old_size, tuple(path), signed.note))
        url = f"{self.witness.url}/add-checkpoint"
        timeout_s = deadline_s - time.monotonic()
        if timeout_s <= 0:
            raise UnavailableError(f"{url}: no answer in time")
        return http.request("POST", url, body=body, timeout_s=timeout_s, max_bytes=_MAX_ANSWER_SIZE)


def verify_not_behind(
    store: Store, clients: Sequence[WitnessClient], *, log_keys: tuple[VerifierKey, ...], origin: str
) -> None:
    """Refuse to go on behind a checkpoint of ours that a witness cosigned; an unreachable one says nothing.

    Only a checkpoint with this log's signatures and the witness's counts: a bare size is not evidence, so that
    one lying witness cannot stop the log. All are asked at the same time, and none is waited for beyond its
    client's time.

    Raises:
        InconsistentError: the database is behind a witness (code ``behind-anchor``).
    """
    shown: dict[str, bytes | None] = {}

    def ask(client: WitnessClient) -> None:
        shown[client.witness.url] = _shown(client, origin, log_keys)

    threads = [threading.Thread(target=ask, args=(client,), daemon=True) for client in clients]
    began_s = time.monotonic()
    for thread in threads:
        thread.start()
    for client, thread in zip(clients, threads, strict=True):
        thread.join(max(0.0, began_s + client.timeout_s - time.monotonic()))
        if client.witness.url not in shown:
            _log.warning("witness not asked", witness=client.witness.url, reason="no answer in time")
        elif (data := shown[client.witness.url]) is not None:
            anchors.verify_not_behind(
                store, data, log_keys=log_keys, whose=f"the witness {client.witness.url}"
            )


def _shown(client: WitnessClient, origin: str, log_keys: tuple[VerifierKey, ...]) -> bytes | None:
    """The newest checkpoint that a witness shows, if this log signed it and the witness cosigned it."""
    try:
        data = client.newest(origin)
        if data is not None:
            signed = parse_signed_checkpoint(data)
            verify_signed_checkpoint(signed, log_keys=log_keys)
            verify_note(signed.note, client.witness.keys)
    except LogError as error:
        _log.warning("witness not believed", witness=client.witness.url, reason=str(error))
        return None
    return data


def cosigned_note(store: Store, checkpoint: StoredCheckpoint) -> bytes:
    """The checkpoint's note with the newest cosignatures for it: that the log is alive, and shows this to them."""
    return _with_lines(checkpoint, [item.line for item in store.cosignatures(checkpoint.size)])


def first_cosigned_note(store: Store, checkpoint: StoredCheckpoint) -> bytes:
    """The note with the first cosignatures for it: how early all that it covers was there."""
    return _with_lines(checkpoint, store.first_cosignatures(checkpoint.size))


def _with_lines(checkpoint: StoredCheckpoint, lines: Sequence[str]) -> bytes:
    data = checkpoint.note + "".join(lines).encode()
    note.parse_note(data)  # what we serve must parse
    return data
