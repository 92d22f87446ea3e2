"""Witnessing: offer each signed checkpoint to the witnesses, keep their cosignatures, publish at a quorum.

One thread. It never blocks sequencing: while the witnesses are asked about one size the log may grow, and the
next round offers the newest. A witness is asked from the size it last cosigned; a 409 tells us if we are
wrong. Only verified cosignatures of the policy's keys are kept.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from assay.fetch import http
from assay.log_server.config import WitnessSection
from assay.log_server.store import Store, StoredCheckpoint, StoredCosignature
from assay.tlog import note, proof, witness_protocol
from assay.tlog.checkpoint import Checkpoint
from assay.tlog.cosignature import Cosignature, verify_cosignature
from assay.tlog.errors import LogError, UnavailableError, UntrustedError
from assay.tlog.keys import VerifierKey
from assay.tlog.note import NoteSignature
from assay.tlog.policy import Policy
from assay.tlog.witness_protocol import AddCheckpoint

_log = structlog.get_logger("witnessing")


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
    """Asks one witness for cosignatures, and remembers the size that it last cosigned."""

    def __init__(self, witness: Witness, *, store: Store, timeout_s: float) -> None:
        self.witness = witness
        self._store = store
        self._timeout_s = timeout_s
        self._cosigned_size = 0

    def cosign(self, signed: StoredCheckpoint, checkpoint: Checkpoint) -> list[Kept]:
        """Have a checkpoint cosigned.

        Raises:
            UnavailableError: no answer, or a refusal.
            MalformedError, UntrustedError: an answer that is not this witness's cosignature.
        """
        response = self._offer(signed, old_size=min(self._cosigned_size, signed.size))
        if response.status == 409:
            claimed = witness_protocol.parse_size_body(response.body)
            # A bare size is no evidence: it is tried once, never remembered against the witness or the log.
            self._cosigned_size = 0
            if claimed > signed.size:
                raise UnavailableError(f"{self.witness.url} claims to have cosigned size {claimed}")
            response = self._offer(signed, old_size=claimed)
        if response.status != 200:
            raise UnavailableError(
                f"{self.witness.url} answers HTTP {response.status}: {response.body[:100]!r}"
            )
        kept = [
            Kept(verify_cosignature(checkpoint, signature, key), signature)
            for signature in witness_protocol.parse_cosignature_lines(response.body)
            for key in self.witness.keys
            if signature.is_by(key)
        ]
        if not kept:
            raise UntrustedError(f"{self.witness.url} answers without a cosignature by a key of the policy")
        self._cosigned_size = signed.size
        return kept

    def newest(self, origin: str) -> bytes | None:
        """The newest checkpoint of a log that this witness shows, or None if it has none.

        Raises:
            UnavailableError: no answer.
        """
        url = f"{self.witness.url}/{witness_protocol.origin_hash(origin)}/checkpoint"
        response = http.request("GET", url, timeout_s=self._timeout_s, max_bytes=65_536)
        if response.status == 404:
            return None
        if response.status != 200:
            raise UnavailableError(f"{url}: HTTP {response.status}")
        return response.body

    def _offer(self, signed: StoredCheckpoint, *, old_size: int) -> http.Response:
        with self._store.hashes() as hashes:
            path = proof.prove_consistency(old_size=old_size, new_size=signed.size, reader=hashes)
        body = witness_protocol.format_add_checkpoint(AddCheckpoint(old_size, tuple(path), signed.note))
        url = f"{self.witness.url}/add-checkpoint"
        return http.request("POST", url, body=body, timeout_s=self._timeout_s, max_bytes=65_536)


class Publisher:
    """The thread that has checkpoints cosigned and publishes them.

    Args:
        store: where cosignatures are kept.
        policy: witnesses and quorum.
        clients: one for each witness of the policy.
        newest: the newest checkpoint that may leave the process.
        limits: intervals.
        now_ms: the clock.
    """

    def __init__(
        self,
        *,
        store: Store,
        policy: Policy,
        clients: Sequence[WitnessClient],
        newest: Callable[[], StoredCheckpoint],
        limits: WitnessSection,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._policy = policy
        self._clients = clients
        self._newest = newest
        self._limits = limits
        self._now_ms = now_ms
        self._published = threading.Condition()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin with the newest checkpoint, whether or not it was published before."""
        self._wake.set()
        self._thread.start()

    def stop(self) -> None:
        """End after the round under way."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def offer(self) -> None:
        """There is a new checkpoint."""
        self._wake.set()

    def wait_for(self, size: int, *, timeout_s: float) -> StoredCheckpoint | None:
        """The smallest published checkpoint that covers ``size`` leaves, or None when the time is up."""
        with self._published:
            self._published.wait_for(
                lambda: self._store.published(covering=size) is not None, timeout=timeout_s
            )
        return self._store.published(covering=size)

    def _run(self) -> None:
        pause_s = 0.0
        with ThreadPoolExecutor(max(1, len(self._clients)), thread_name_prefix="witness") as pool:
            while not self._stopping.is_set():
                self._wake.wait(timeout=pause_s or None)
                self._wake.clear()
                if self._stopping.is_set():
                    return
                pause_s = self._pause_s(pause_s, complete=self._round(pool))

    def _pause_s(self, before_s: float, *, complete: bool) -> float:
        """Until the next round: after a failure twice as long each time; whoever waits for a quorum wakes us."""
        limits = self._limits
        if complete:
            return limits.recosign_interval_s
        longest_s = limits.recosign_interval_s / 2
        return (
            min(2 * before_s, longest_s)
            if limits.retry_interval_s <= before_s <= longest_s
            else limits.retry_interval_s
        )

    def _round(self, pool: ThreadPoolExecutor) -> bool:
        """Ask every witness about the newest checkpoint; true if the quorum was met with fresh answers."""
        signed = self._newest()
        checkpoint = Checkpoint(self._policy.logs[0].key.name, signed.size, signed.root)
        answers = list(pool.map(lambda client: self._ask(client, signed, checkpoint), self._clients))
        kept = [item for answer in answers for item in answer]
        fresh = {
            witness.name
            for witness in self._policy.witnesses
            for item in kept
            if item.cosignature.key == witness.key
        }
        complete = self._policy.is_quorum(fresh)
        self._store.keep_cosignatures(
            signed.size,
            [_stored(item) for item in kept],
            published_ms=self._now_ms() if complete else None,
        )
        with self._published:
            self._published.notify_all()
        return complete

    def _ask(self, client: WitnessClient, signed: StoredCheckpoint, checkpoint: Checkpoint) -> list[Kept]:
        try:
            return client.cosign(signed, checkpoint)
        except LogError as error:
            _log.warning("no cosignature", witness=client.witness.url, size=signed.size, reason=str(error))
            return []


def _stored(kept: Kept) -> StoredCosignature:
    key = kept.cosignature.key
    return StoredCosignature(key.name, key.key_id, kept.signature.line, kept.cosignature.time_s)


def cosigned_note(store: Store, checkpoint: StoredCheckpoint) -> bytes:
    """The checkpoint's note with the cosignatures that are kept for it."""
    lines = "".join(item.line for item in store.cosignatures(checkpoint.size))
    data = checkpoint.note + lines.encode()
    note.parse_note(data)  # what we serve must parse
    return data
