"""Witnesses as the log meets them: who they are, what they have cosigned, and asking one of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from assay.fetch import http
from assay.log_server import anchor as anchors
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.store import Store
from assay.tlog import note, proof, witness_protocol
from assay.tlog.checkpoint import Checkpoint, parse_signed_checkpoint
from assay.tlog.cosignature import Cosignature, verify_cosignature
from assay.tlog.errors import LogError, StaleError, UnavailableError, UntrustedError
from assay.tlog.keys import VerifierKey
from assay.tlog.note import NoteSignature, verify_note
from assay.tlog.policy import Policy
from assay.tlog.witness_protocol import AddCheckpoint

_log = structlog.get_logger("witnessing")

_CLOCK_TOLERANCE_S = 600
"""How far a cosignature's time may be from our clock. A time of 0, which claims nothing, is far off."""


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
        self._cosigned_size = max(
            (store.cosigned_size(key.name, key.key_id) for key in witness.keys), default=0
        )

    def cosign(self, signed: StoredCheckpoint, checkpoint: Checkpoint, *, now_ms: int) -> list[Kept]:
        """Have a checkpoint cosigned.

        Raises:
            UnavailableError: no answer, or a refusal; code ``witness-ahead`` if it claims to know a larger tree.
            MalformedError, UntrustedError, StaleError: an answer that is not this witness's cosignature of now.
        """
        response = self._offer(signed, old_size=min(self._cosigned_size, signed.size))
        if response.status == 409:
            claimed = witness_protocol.parse_size_body(response.body)
            # A bare size is no evidence: it is tried once, never remembered against the witness or the log.
            self._cosigned_size = 0
            if claimed > signed.size:
                raise UnavailableError(
                    f"{self.witness.url} claims to have cosigned size {claimed}, without showing it",
                    code="witness-ahead",
                )
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
        for item in kept:
            if abs(item.cosignature.time_s - now_ms // 1000) > _CLOCK_TOLERANCE_S:
                raise StaleError(
                    f"{self.witness.url} cosigns with the time {item.cosignature.time_s}, which is not now",
                    code="cosignature-time",
                )
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


def verify_not_behind(
    store: Store, clients: Sequence[WitnessClient], *, log_keys: tuple[VerifierKey, ...], origin: str
) -> None:
    """Refuse to go on behind a checkpoint of ours that a witness cosigned; an unreachable one says nothing.

    Only a checkpoint with this log's signature and the witness's counts: a bare size is not evidence, so that
    one lying witness cannot stop the log. All are asked at the same time.

    Raises:
        InconsistentError: the database is behind a witness (code ``behind-anchor``).
    """
    with ThreadPoolExecutor(max(1, len(clients)), thread_name_prefix="witness") as pool:
        shown = list(pool.map(lambda client: _shown(client, origin), clients))
    for client, data in zip(clients, shown, strict=True):
        if data is not None:
            anchors.verify_not_behind(
                store, data, log_keys=log_keys, whose=f"the witness {client.witness.url}"
            )


def _shown(client: WitnessClient, origin: str) -> bytes | None:
    """The newest checkpoint that a witness shows, if it is one that it cosigned itself."""
    try:
        data = client.newest(origin)
        if data is not None:
            verify_note(parse_signed_checkpoint(data).note, client.witness.keys)
    except LogError as error:
        _log.warning("witness not asked", witness=client.witness.url, reason=str(error))
        return None
    return data


def cosigned_note(store: Store, checkpoint: StoredCheckpoint) -> bytes:
    """The checkpoint's note with the cosignatures that are kept for it."""
    lines = "".join(item.line for item in store.cosignatures(checkpoint.size))
    data = checkpoint.note + lines.encode()
    note.parse_note(data)  # what we serve must parse
    return data
