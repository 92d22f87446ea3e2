"""Receipts of one boot: the chain, and the outbox for those that the log has not taken yet.

One lock orders the chain: a sequence number and the hash of the receipt before are taken together. The outbox
holds the COSE only, never salts or plaintext; what it holds is posted again until the log has it, which is
harmless because the log knows a receipt by its id.
"""

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from assay.attest import entry, merkle_json, receipt
from assay.attest.entry import ReceiptEntry
from assay.attest.merkle_json import Commitments
from assay.attest.receipt import LogHead, Receipt, SignedReceipt
from assay.enclave.boot import Boot, SealedState
from assay.enclave.log_link import LoggedEntry, LogLink, RefusedError
from assay.enclave.sealing import SealedFile
from assay.tlog.errors import LogError, MalformedError, StaleError, UnavailableError, UntrustedError
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
        self.require_room(head=head, now_s=now_s)
        salts = {name: os.urandom(merkle_json.SALT_SIZE) for name in merkle_json.FIELDS}
        commitments = merkle_json.commit(values, salts)
        with self._lock:
            signed = receipt.sign_receipt(self._boot.key, self._next(commitments.root, head, now_s))
            self._keep(signed)
            self._sequence += 1
            self._previous = signed.id
        return Issued(signed, commitments)

    def require_room(self, *, head: LogHead, now_s: int) -> None:
        """Check what :meth:`issue` would refuse: worth knowing before a model is asked.

        Raises:
            StaleError, UnavailableError: as :meth:`issue`.
        """
        if now_s < head.cosigned_at_s:
            raise StaleError("the host's clock is behind the log's", code="clock-behind")
        if len(self._waiting()) >= MAX_OUTBOX:
            raise UnavailableError("too many receipts wait for the log", code="full")

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
        with self._lock:
            if self._state.advance(logged.index, logged.leaf_hash):
                self._state.save(self._state_file)
        self._path(signed.id).unlink(missing_ok=True)
        return logged

    def post_waiting(self) -> int:
        """Post what waits in the outbox, also of earlier boots; returns how many the log took.

        What is no receipt of ours (the host can write there), or what the log refuses for good, is set aside.
        """
        taken = 0
        for path in self._waiting():
            try:
                signed = self._read(path)
            except FileNotFoundError:
                continue  # posted meanwhile by the connection that it belongs to
            except (LogError, OSError):
                _set_aside(path)
                continue
            try:
                self.post(signed)
                taken += 1
            except RefusedError:
                _set_aside(path)
            except UnavailableError:
                break
            except LogError:
                continue  # who speaks in the log's place proved nothing; it stays for the next time
        return taken

    def _read(self, path: Path) -> SignedReceipt:
        """A receipt of ours, in the file that bears its id."""
        with path.open("rb") as file:
            signed = receipt.parse_receipt(file.read(receipt.MAX_RECEIPT_SIZE + 1))
        receipt.verify_receipt(signed, public_key=self._boot.public_key)
        if path != self._path(signed.id):
            raise MalformedError("a receipt in the outbox lies under another's name")
        return signed

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
        try:
            with temporary.open("wb") as file:
                file.write(signed.cose)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except OSError as error:
            raise UnavailableError("the outbox cannot be written", code="full") from error

    def _path(self, receipt_id: Hash) -> Path:
        return self._outbox / f"{receipt_id.hex()}.cose"

    def _waiting(self) -> list[Path]:
        return sorted(self._outbox.glob("*.cose"))


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rename(path.with_suffix(".refused"))
