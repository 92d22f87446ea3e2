"""Receipts: what the enclave says in public about one answer, as COSE_Sign1 over CWT/EAT claims.

COSE (RFC 9052): tag 18, protected header {1: -9 (ESP256, RFC 9864), 16: "application/assay-receipt+cwt"},
unprotected header empty, payload the deterministic CBOR map below, signature raw r ‖ s with low s.

==========  =====================  =======================================================
label       claim                  value
==========  =====================  =======================================================
1           iss (RFC 8392)         text, ``urn:assay:enclave:`` ‖ hex enclave id
6           iat (RFC 8392)         uint, Unix seconds by the host's clock: claimed, not proven
265         eat_profile (RFC 9711) text, ``urn:assay:receipt:v1``
-70001      boot id                bstr 16
-70002      registration           bstr 32, leaf hash of the boot's ``enclave`` entry
-70003      sequence               uint, from 0 within (enclave id, boot id)
-70004      previous               bstr 32, the id of the boot's receipt before this one, or null
-70005      log head               [uint size, bstr 32 root, uint newest cosignature time in s]
-70006      commitments            bstr 32, root of the salted fields (``merkle_json``)
==========  =====================  =======================================================

Labels below -65536 are CWT's private-use range. A receipt's id is SHA-256 of its Sig_structure: the
signature is not part of it, so that a receipt cannot be logged twice under two signatures.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import cbor, p256
from assay.attest.claims import BOOT_ID_SIZE
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.merkle import HASH_SIZE, Hash

PROFILE = "urn:assay:receipt:v1"
MAX_RECEIPT_SIZE = 4096

_COSE_SIGN1 = 18
_ISSUER_PREFIX = "urn:assay:enclave:"
_PROTECTED = cbor.encode({1: -9, 16: "application/assay-receipt+cwt"})
_LABELS = {1, 6, 265, -70001, -70002, -70003, -70004, -70005, -70006}


@dataclass(frozen=True, slots=True)
class LogHead:
    """The newest checkpoint that the enclave verified under its measured log policy.

    ``cosigned_at_s`` is the newest witness time on it in Unix seconds: a lower bound on the receipt's
    time that does not rest on the host's clock. 0 if the policy asks for no witness.
    """

    size: int
    root: Hash
    cosigned_at_s: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """The claims of a receipt; see the module's table.

    Attributes:
        enclave_id: 32 bytes, SHA-256 of the signing key's SPKI DER.
        time_claimed_s: the host's clock; the proof's cosignatures give the upper bound.
    """

    enclave_id: bytes
    boot_id: bytes
    registration: Hash
    sequence: int
    previous: Hash | None
    log_head: LogHead
    time_claimed_s: int
    commitments: Hash

    def to_claims(self) -> dict[int, Any]:
        """The payload's map."""
        head = self.log_head
        return {
            1: _ISSUER_PREFIX + self.enclave_id.hex(),
            6: self.time_claimed_s,
            265: PROFILE,
            -70001: self.boot_id,
            -70002: bytes(self.registration),
            -70003: self.sequence,
            -70004: self.previous,
            -70005: [head.size, bytes(head.root), head.cosigned_at_s],
            -70006: bytes(self.commitments),
        }


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A parsed COSE receipt: claims and signature, nothing believed yet."""

    receipt: Receipt
    payload: bytes
    signature: bytes

    @property
    def sig_structure(self) -> bytes:
        """What is signed (RFC 9052 §4.4), with empty external data."""
        return cbor.encode(["Signature1", _PROTECTED, b"", self.payload])

    @property
    def id(self) -> Hash:
        """SHA-256 of the Sig_structure."""
        return Hash(hashlib.sha256(self.sig_structure).digest())

    @property
    def cose(self) -> bytes:
        """The exact bytes of the COSE_Sign1."""
        return cbor.encode(cbor.Tag(_COSE_SIGN1, [_PROTECTED, {}, self.payload, self.signature]))


def sign_receipt(key: ec.EllipticCurvePrivateKey, receipt: Receipt) -> SignedReceipt:
    """Sign a receipt with the enclave's key.

    Raises:
        MalformedError: a head, time or chain that :func:`parse_receipt` would refuse.
    """
    payload = cbor.encode(receipt.to_claims())
    _parse_claims(payload)  # what we sign must parse
    unsigned = SignedReceipt(receipt, payload, b"")
    return SignedReceipt(receipt, payload, p256.sign(key, unsigned.sig_structure))


def parse_receipt(cose: bytes) -> SignedReceipt:
    """Parse a COSE receipt in its only spelling.

    Raises:
        MalformedError: longer than 4096 bytes, other headers, unknown or missing claims, wrong types.
    """
    if len(cose) > MAX_RECEIPT_SIZE:
        raise MalformedError(f"receipt: {len(cose)} bytes are more than {MAX_RECEIPT_SIZE}", code="too-large")
    match cbor.decode(cose, what="receipt"):
        case cbor.Tag(
            18, [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature]
        ):
            pass
        case _:
            raise MalformedError("receipt: not a tagged COSE_Sign1")
    if protected != _PROTECTED:
        raise MalformedError("receipt: another protected header than ESP256's")
    if unprotected:
        raise MalformedError("receipt: the unprotected header is not empty")
    if len(signature) != p256.SIGNATURE_SIZE:
        raise MalformedError("receipt: the signature is not 64 bytes")
    return SignedReceipt(_parse_claims(payload), payload, signature)


def verify_receipt(signed: SignedReceipt, *, public_key: bytes) -> Receipt:
    """Verify a receipt under the registered key of its enclave (SPKI DER), and return its claims.

    Not checked here: that the key is registered, the sequence, and the log head.

    Raises:
        MalformedError: an unusable key, or a signature with high s.
        UntrustedError: another enclave's key, or a bad signature (code ``receipt-signature``).
    """
    key = p256.parse_spki(public_key)
    if hashlib.sha256(public_key).digest() != signed.receipt.enclave_id:
        raise UntrustedError("the receipt names another enclave than this key's", code="receipt-signature")
    try:
        p256.verify(key, signed.signature, signed.sig_structure)
    except UntrustedError as error:
        raise UntrustedError("the receipt's signature does not verify", code="receipt-signature") from error
    return signed.receipt


def _parse_claims(payload: bytes) -> Receipt:
    claims = cbor.decode(payload, what="receipt claims")
    if not isinstance(claims, dict) or set(claims) != _LABELS:
        raise MalformedError("receipt claims: not exactly the claims of the profile")
    if claims[265] != PROFILE:
        raise MalformedError("receipt claims: another profile")
    sequence, previous = _uint(claims[-70003], "sequence"), claims[-70004]
    if (previous is None) != (sequence == 0):
        raise MalformedError("receipt claims: only the first receipt of a boot has no previous one")
    return Receipt(
        enclave_id=_issuer(claims[1]),
        boot_id=_bytes(claims[-70001], BOOT_ID_SIZE, "boot id"),
        registration=Hash(_bytes(claims[-70002], HASH_SIZE, "registration")),
        sequence=sequence,
        previous=None if previous is None else Hash(_bytes(previous, HASH_SIZE, "previous")),
        log_head=_log_head(claims[-70005], time_claimed_s=(iat := _uint(claims[6], "iat"))),
        time_claimed_s=iat,
        commitments=Hash(_bytes(claims[-70006], HASH_SIZE, "commitments")),
    )


def _log_head(value: Any, *, time_claimed_s: int) -> LogHead:
    match value:
        case [size, bytes() as root, cosigned_at_s] if len(root) == HASH_SIZE:
            head = LogHead(_uint(size, "log head size"), Hash(root), _uint(cosigned_at_s, "log head time"))
        case _:
            raise MalformedError("receipt claims: the log head is not [size, root, time]")
    if time_claimed_s < head.cosigned_at_s:
        raise MalformedError(
            "receipt claims: the claimed time is before the log head's", code="time-before-head"
        )
    return head


def _issuer(value: Any) -> bytes:
    if not isinstance(value, str) or not value.startswith(_ISSUER_PREFIX):
        raise MalformedError("receipt claims: the issuer is not an enclave")
    return strict.hex_bytes(value.removeprefix(_ISSUER_PREFIX), what="issuer", length=32)


def _bytes(value: Any, length: int, what: str) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        raise MalformedError(f"receipt claims: {what} is not {length} bytes")
    return value


def _uint(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise MalformedError(f"receipt claims: {what} is not an unsigned integer below 2**53")
    return value
