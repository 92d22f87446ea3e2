"""A boot: the sealed signing key, the boot's id, its registration in the log.

The signing key is made at the first start and sealed; it lasts as long as the measurement. HPKE keys are made
for each attestation and never leave memory, so that a later break opens no recorded prompt.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from assay.attest import claims, entry, jcs, p256
from assay.attest.claims import Claims, Evidence
from assay.attest.entry import EnclaveSubmission, Registration
from assay.attest.quote import sgx
from assay.enclave.config import Measured
from assay.enclave.log_link import LoggedEntry, LogLink
from assay.enclave.platforms import Platform
from assay.enclave.sealing import SealedFile
from assay.tlog import strict
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError
from assay.tlog.merkle import Hash

_FIRST_PAUSE_S = 0.2
_MAX_PAUSE_S = 5.0


@dataclass(slots=True)
class SealedState:
    """What lasts from boot to boot.

    Attributes:
        key: the signing key.
        last_receipt: leaf hash of the last receipt of this key that was found in the log.
        last_index: where in the log; None if there is none.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    last_receipt: Hash | None
    last_index: int | None

    def advance(self, index: int, leaf_hash: Hash) -> bool:
        """Remember a logged receipt, unless one further on is known already; returns whether it is new."""
        if self.last_index is not None and index <= self.last_index:
            return False
        self.last_index, self.last_receipt = index, leaf_hash
        return True

    def save(self, file: SealedFile) -> None:
        """Seal it."""
        last = None if self.last_receipt is None else self.last_receipt.hex()
        key = strict.base64_text(p256.private_pem(self.key))
        file.write(jcs.canonical({"key": key, "last_index": self.last_index, "last_receipt": last}))


@dataclass(frozen=True, slots=True)
class Attested:
    """Fresh evidence and the HPKE key that it vouches for."""

    evidence: Evidence
    hpke_key: X25519PrivateKey = field(repr=False)


class Boot:
    """One start of the agent.

    Args:
        measured: the measured configuration.
        platform: gives quotes.
        state: the sealed state, read or made.
    """

    def __init__(self, measured: Measured, platform: Platform, state: SealedState) -> None:
        self._measured = measured
        self._platform = platform
        self._state = state
        self.key = state.key
        self.public_key = p256.spki(state.key.public_key())
        self.boot_id = os.urandom(claims.BOOT_ID_SIZE)

    @property
    def enclave_id(self) -> str:
        """Hex SHA-256 of the signing key's SPKI."""
        return p256.signer_id(self.public_key)

    def attest(self, nonce: bytes | None) -> Attested:
        """Make an HPKE key, claims for it with the caller's nonce, and a quote that binds them.

        Raises:
            UnavailableError: the platform gives no quote over what it was given (code ``no-quote``).
        """
        hpke_key = X25519PrivateKey.generate()
        said = Claims(
            kem=claims.KEM_X25519,
            kdf=claims.KDF_HKDF_SHA256,
            aead=claims.AEAD_CHACHA20_POLY1305,
            hpke_public_key=hpke_key.public_key().public_bytes_raw(),
            nonce=nonce,
            boot_id=self.boot_id,
            log_origin=self._measured.log_origin,
            log_policy_sha256=self._measured.log_policy_sha256,
            config_sha256=self._measured.config_sha256,
            last_receipt=self._state.last_receipt,
        )
        quote = self._quote(claims.report_data(self.public_key, said))
        return Attested(claims.sign_evidence(self.key, quote, said), hpke_key)

    def _quote(self, report_data: bytes) -> bytes:
        """A quote, looked at only for whether it is one and over this: the platform is shared by threads."""
        quote = self._platform.quote(report_data)
        try:
            quoted = sgx.parse_quote(quote).body.report_data
        except LogError as error:
            raise UnavailableError("what the platform gives is no quote", code="no-quote") from error
        if quoted != report_data:
            raise UnavailableError("the platform quotes something else", code="no-quote")
        return quote

    def register(
        self,
        log: LogLink,
        *,
        pause: Callable[[float], None] = time.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> LoggedEntry:
        """Register this boot in the log, trying for as long as the measured configuration says.

        Raises:
            UnavailableError: the log did not answer in that time.
            UntrustedError: it refuses, or logs something else than what was submitted (code ``other-entry``).
        """
        evidence = self.attest(None).evidence
        data = entry.format_entry(EnclaveSubmission(evidence))
        deadline, pause_s = monotonic_s() + self._measured.registration_wait_s, _FIRST_PAUSE_S
        while True:
            try:
                logged = log.submit(data)
                break
            except UnavailableError:
                remaining_s = deadline - monotonic_s()
                if remaining_s <= 0:
                    raise
            pause(min(pause_s, remaining_s))
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
        _require_ours(logged.leaf, evidence)
        return logged

    def mr_enclave(self, registration_leaf: bytes) -> bytes:
        """This enclave's own MRENCLAVE, as its quote says."""
        registration = entry.parse_entry(registration_leaf)
        assert isinstance(registration, Registration)
        return sgx.parse_quote(registration.evidence.quote).body.mr_enclave


def open_state(file: SealedFile) -> SealedState:
    """Read the sealed state, or make a signing key and seal it where there is none.

    Raises:
        MalformedError, UntrustedError: there is state that this enclave cannot open; it makes no new key then.
    """
    content = file.read()
    if content is None:
        state = SealedState(ec.generate_private_key(ec.SECP256R1()), None, None)
        state.save(file)
        return state
    value = jcs.parse_canonical(content, what="sealed state", max_bytes=65_536)
    fields = jcs.Fields(value, what="sealed state", required=("key", "last_index", "last_receipt"))
    last = fields.nullable("last_receipt", lambda name: fields.hex(name, length=32))
    index = fields.nullable("last_index", fields.integer)
    if (last is None) != (index is None):
        raise MalformedError("sealed state: a receipt without its index, or the reverse")
    return SealedState(
        p256.parse_private_pem(fields.base64("key")), None if last is None else Hash(last), index
    )


def _require_ours(leaf: bytes, evidence: Evidence) -> None:
    logged = entry.parse_entry(leaf)
    if not isinstance(logged, Registration) or logged.evidence != evidence:
        raise UntrustedError("the log shows another registration than ours", code="other-entry")
