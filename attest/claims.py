"""The enclave's claims, and how a quote's report_data binds the enclave's keys to them.

::

    report_data[0:32]  = SHA-256(SPKI DER of the P-256 signing key)
    report_data[32:64] = SHA-256("assay-enclave-claims-v1" ‖ RFC 8785 of the claims)

The first half is what independent verifiers of such agents expect; the second binds the HPKE key, the
nonce, the boot and the configuration. A verifier recomputes both from the quote's own bytes.
"""

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import jcs, p256
from assay.tlog import strict
from assay.tlog.errors import UntrustedError
from assay.tlog.merkle import Hash

BOOT_ID_SIZE = 16
NONCE_SIZE = 32
MAX_QUOTE_SIZE = 16_384

KEM_X25519 = 0x0020
"""DHKEM(X25519, HKDF-SHA256), RFC 9180 §7.1."""
KDF_HKDF_SHA256 = 0x0001
AEAD_CHACHA20_POLY1305 = 0x0003

_CLAIMS_TAG = b"assay-enclave-claims-v1"
_POSSESSION_TAG = b"assay-enclave-entry-v1"
_CLAIM_KEYS = (
    "aead",
    "boot_id",
    "config_sha256",
    "hpke_public_key",
    "kdf",
    "kem",
    "last_receipt",
    "log_origin",
    "log_policy_sha256",
    "nonce",
)


@dataclass(frozen=True, slots=True)
class Claims:
    """What an enclave says of itself at a boot or re-attestation.

    Attributes:
        kem: HPKE key-encapsulation id (RFC 9180 registry); ``kdf`` and ``aead`` likewise.
        hpke_public_key: the key that prompts are sealed to, in the KEM's encoding.
        nonce: the 32 bytes that the asking client chose, or None at registration.
        boot_id: 16 random bytes per start.
        log_origin: the log that receipts go to.
        log_policy_sha256: of the measured log policy, by which the enclave checks that log.
        config_sha256: of the measured configuration.
        last_receipt: leaf hash of the last receipt of this key that the enclave found in the log, or None.
    """

    kem: int
    kdf: int
    aead: int
    hpke_public_key: bytes
    nonce: bytes | None
    boot_id: bytes
    log_origin: str
    log_policy_sha256: bytes
    config_sha256: bytes
    last_receipt: Hash | None

    def to_json(self) -> jcs.Json:
        """The JSON object whose canonical form is hashed."""
        return {
            "aead": self.aead,
            "boot_id": strict.base64_text(self.boot_id),
            "config_sha256": self.config_sha256.hex(),
            "hpke_public_key": strict.base64_text(self.hpke_public_key),
            "kdf": self.kdf,
            "kem": self.kem,
            "last_receipt": None if self.last_receipt is None else self.last_receipt.hex(),
            "log_origin": self.log_origin,
            "log_policy_sha256": self.log_policy_sha256.hex(),
            "nonce": None if self.nonce is None else strict.base64_text(self.nonce),
        }

    def digest(self) -> bytes:
        """SHA-256 over the tagged canonical claims: the second half of report_data."""
        return hashlib.sha256(_CLAIMS_TAG + jcs.canonical(self.to_json())).digest()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an enclave submits to be registered: quote, claims, and proof that it holds the signing key.

    ``possession`` is the signature, by the key whose SPKI is ``public_key``, over
    ``"assay-enclave-entry-v1"`` ‖ RFC 8785 of ``{"claims", "quote"}``.
    """

    quote: bytes
    claims: Claims
    public_key: bytes
    possession: bytes

    def to_json(self) -> jcs.Json:
        """``{"claims", "possession": {"public_key", "signature"}, "quote"}``."""
        return {
            "claims": self.claims.to_json(),
            "possession": {
                "public_key": strict.base64_text(self.public_key),
                "signature": strict.base64_text(self.possession),
            },
            "quote": strict.base64_text(self.quote),
        }


def parse_claims(value: jcs.Json, *, what: str) -> Claims:
    """Read claims.

    Raises:
        MalformedError: a missing or unknown claim, or one of another type or length.
    """
    fields = jcs.Fields(value, what=what, required=_CLAIM_KEYS)
    last = fields.nullable("last_receipt", lambda key: fields.hex(key, length=32))
    return Claims(
        kem=fields.integer("kem", high=0xFFFF),
        kdf=fields.integer("kdf", high=0xFFFF),
        aead=fields.integer("aead", high=0xFFFF),
        hpke_public_key=fields.base64("hpke_public_key", max_length=2048),
        nonce=fields.nullable("nonce", lambda key: fields.base64(key, length=NONCE_SIZE)),
        boot_id=fields.base64("boot_id", length=BOOT_ID_SIZE),
        log_origin=fields.text("log_origin", max_length=255),
        log_policy_sha256=fields.hex("log_policy_sha256", length=32),
        config_sha256=fields.hex("config_sha256", length=32),
        last_receipt=None if last is None else Hash(last),
    )


def parse_evidence(value: jcs.Json, *, what: str) -> Evidence:
    """Read evidence; the quote stays bytes.

    Raises:
        MalformedError: not the layout of :meth:`Evidence.to_json`.
    """
    fields = jcs.Fields(value, what=what, required=("claims", "possession", "quote"))
    possession = fields.fields("possession", required=("public_key", "signature"))
    return Evidence(
        quote=fields.base64("quote", max_length=MAX_QUOTE_SIZE),
        claims=parse_claims(fields.value("claims"), what=fields.name("claims")),
        public_key=possession.base64("public_key", max_length=256),
        possession=possession.base64("signature", length=p256.SIGNATURE_SIZE),
    )


def report_data(public_key: bytes, claims: Claims) -> bytes:
    """The 64 bytes that the enclave puts into its report."""
    return hashlib.sha256(public_key).digest() + claims.digest()


def possession_message(quote: bytes, claims: Claims) -> bytes:
    """What the possession signature is over: the evidence without its possession.

    The key itself is not in it; the quote's report_data binds the key.
    """
    unsigned = {"claims": claims.to_json(), "quote": strict.base64_text(quote)}
    return _POSSESSION_TAG + jcs.canonical(unsigned)


def sign_evidence(key: ec.EllipticCurvePrivateKey, quote: bytes, claims: Claims) -> Evidence:
    """Prove possession of the signing key over a quote and its claims."""
    public_key = p256.spki(key.public_key())
    signature = p256.sign(key, possession_message(quote, claims))
    return Evidence(quote, claims, public_key, signature)


def verify_possession(evidence: Evidence) -> ec.EllipticCurvePublicKey:
    """Check that whoever submitted the evidence holds its signing key; the quote is not looked at.

    Raises:
        MalformedError: an unusable key or signature encoding.
        UntrustedError: the signature does not verify (code ``possession``).
    """
    key = p256.parse_spki(evidence.public_key)
    message = possession_message(evidence.quote, evidence.claims)
    try:
        p256.verify(key, evidence.possession, message)
    except UntrustedError as error:
        raise UntrustedError(
            "the evidence is not signed by the key that it names", code="possession"
        ) from error
    return key


def verify_binding(evidence: Evidence, *, quoted_report_data: bytes) -> Claims:
    """Check that a quote's report_data binds this evidence's key and claims, and return the claims.

    ``quoted_report_data`` must come from a quote that verified. A zero half never binds anything.

    Raises:
        UntrustedError: it binds something else (code ``report-data``).
    """
    if quoted_report_data != report_data(evidence.public_key, evidence.claims):
        raise UntrustedError("the quote's report_data does not bind this key and claims", code="report-data")
    return evidence.claims
