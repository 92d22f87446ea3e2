"""Receipts of one boot: the chain, and the outbox for those that the log has not taken yet.

One lock orders the chain: a sequence number and the hash of the receipt before are taken together. The outbox
holds the COSE only, never salts or plaintext; what it holds is posted again until the log has it, which is
harmless because the log knows a receipt by its id.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from assay.attest import entry, merkle_json, receipt
from assay.attest.entry import ReceiptEntry
from assay.attest.merkle_json import Commitments
from assay.attest.receipt import LogHead, Receipt, SignedReceipt
from assay.enclave.boot import Boot, SealedState
from assay.enclave.log_link import LoggedEntry, LogLink
from assay.enclave.sealing import SealedFile
from assay.tlog.errors import LogError, StaleError, UnavailableError, UntrustedError
from assay.tlog.merkle import Hash

MAX_OUTBOX = 1024


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed receipt and what opens its commitments."""

    signed: SignedReceipt
    commitments: Commitments


class Receipts:
    """The receipts of one boot.

    Args:
        boot: whose key signs.
        registration: the boot's entry.
        log: where receipts go.
        outbox: a directory.
        state: remembers the last receipt that is in the log, sealed into ``state_file``.
    """

    def __init__(
        self,
        boot: Boot,
        *,
        registration: LoggedEntry,
        log: LogLink,
        outbox: Path,
        state: SealedState,
        state_file: SealedFile,
    ) -> None:
        self._boot = boot
        self._registration = registration
        self._log = log
        self._outbox = outbox
        self._state = state
        self._state_file = state_file
        self._lock = threading.Lock()
        self._sequence = 0
        self._previous: Hash | None = None
        outbox.mkdir(mode=0o700, parents=True, exist_ok=True)

    def issue(self, values: dict[str, object], *, head: LogHead, now_s: int) -> Issued:
        """Sign the boot's next receipt over commitments to these values, and put it into the outbox.

        ``now_s`` is the host's clock: claimed in the receipt, never relied on.

        Raises:
            StaleError: the host's clock is behind the log head (code ``clock-behind``).
            UnavailableError: the outbox is full: nothing may be answered without its receipt (code ``full``).
        """
        if now_s < head.cosigned_at_s:
            raise StaleError("the host's clock is behind the log's", code="clock-behind")
        salts = {name: os.urandom(merkle_json.SALT_SIZE) for name in merkle_json.FIELDS}
        commitments = merkle_json.commit(values, salts)
        with self._lock:
            if len(self._waiting()) >= MAX_OUTBOX:
                raise UnavailableError("too many receipts wait for the log", code="full")
            signed = receipt.sign_receipt(self._boot.key, self._next(commitments.root, head, now_s))
            self._keep(signed)
            self._sequence += 1
            self._previous = signed.id
        return Issued(signed, commitments)

    def post(self, signed: SignedReceipt) -> LoggedEntry:
        """Have the log take a receipt, verify that it did, and forget it from the outbox.

        Raises:
            UnavailableError: the log or its witnesses do not answer; the receipt stays in the outbox.
            UntrustedError: the log refuses it or shows something else.
        """
        data = entry.format_entry(ReceiptEntry(signed))
        logged = self._log.submit(data)
        shown = entry.parse_entry(logged.leaf)
        if not isinstance(shown, ReceiptEntry) or shown.signed.id != signed.id:
            raise UntrustedError("the log shows another receipt than ours", code="other-entry")
        self._path(signed.id).unlink(missing_ok=True)
        with self._lock:
            self._state.last_receipt = logged.leaf_hash
            self._state.save(self._state_file)
        return logged

    def post_waiting(self) -> int:
        """Post what waits in the outbox, also of earlier boots; returns how many the log took."""
        taken = 0
        for path in self._waiting():
            try:
                self.post(receipt.parse_receipt(path.read_bytes()))
                taken += 1
            except FileNotFoundError:
                continue  # posted meanwhile by the connection that it belongs to
            except UnavailableError:
                break
            except LogError:
                # The log will never take it (the host put it there, or its boot is unknown): set aside.
                path.rename(path.with_suffix(".refused"))
        return taken

    def _next(self, root: Hash, head: LogHead, now_s: int) -> Receipt:
        return Receipt(
            enclave_id=bytes.fromhex(self._boot.enclave_id),
            boot_id=self._boot.boot_id,
            registration=self._registration.leaf_hash,
            sequence=self._sequence,
            previous=self._previous,
            log_head=head,
            time_claimed_s=now_s,
            commitments=root,
        )

    def _keep(self, signed: SignedReceipt) -> None:
        path = self._path(signed.id)
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(signed.cose)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)

    def _path(self, receipt_id: Hash) -> Path:
        return self._outbox / f"{receipt_id.hex()}.cose"

    def _waiting(self) -> list[Path]:
        return sorted(self._outbox.glob("*.cose"))
