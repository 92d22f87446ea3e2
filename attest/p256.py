"""ECDSA on P-256 with SHA-256, as our own formats use it: raw r ‖ s with low s, keys as SPKI DER.

An ECDSA signature (r, s) has a twin (r, n - s) that verifies too. In a log the twin would be a second
spelling of the same entry, so the larger s is refused and never produced.
"""

import functools
import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from assay.tlog.errors import MalformedError, UntrustedError

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order n of the base point (FIPS 186-5, SP 800-186 §3.2.1.3)."""

SIGNATURE_SIZE = 64

_PKCS8_HEADER = b"-----BEGIN PRIVATE KEY-----"


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo DER with an uncompressed point (91 bytes for P-256)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signer_id(spki_der: bytes) -> str:
    """The id of a signer, of an enclave key as of a publisher's: hex SHA-256 of its SPKI DER."""
    return hashlib.sha256(spki_der).hexdigest()


@functools.lru_cache(maxsize=256)
def parse_spki(der: bytes) -> ec.EllipticCurvePublicKey:
    """Load a P-256 public key from SPKI DER in its only spelling.

    Raises:
        MalformedError: not DER, another curve or key type, or a non-canonical encoding.
    """
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("public key: not SubjectPublicKeyInfo DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedError("public key: not on P-256")
    if spki(key) != der:
        raise MalformedError("public key: not the canonical DER encoding")
    return key


def parse_public_pem(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Load a P-256 public key from PEM (``BEGIN PUBLIC KEY``).

    Raises:
        MalformedError: not such a key.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("public key: not a PEM public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedError("public key: not on P-256")
    return parse_spki(spki(key))


def parse_private_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Load a P-256 private key from unencrypted PKCS #8 PEM.

    Raises:
        MalformedError: not such a key; the message never quotes the input.
    """
    if not pem.startswith(_PKCS8_HEADER):
        raise MalformedError("private key: not unencrypted PKCS #8 PEM")
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("private key: not unencrypted PKCS #8 PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedError("private key: not on P-256")
    return key


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key as unencrypted PKCS #8 PEM; the caller keeps the file at mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """The public key as PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Sign: 64 bytes, r ‖ s big-endian, s in [1, n/2]; deterministic nonce (RFC 6979).

    A deterministic nonce matters inside an enclave: its randomness comes from the CPU, but a rolled
    back virtual machine must never reuse a nonce for two messages.
    """
    der = key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return signature_from_der(der)


def signature_to_der(signature: bytes) -> bytes:
    """A raw signature as other formats carry it (RFC 3279 §2.2.3)."""
    return encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))


def signature_from_der(der: bytes) -> bytes:
    """A DER signature as our formats carry it: raw, and of the twins the one with the low s.

    Raises:
        MalformedError: not a DER signature on P-256.
    """
    try:
        r, s = decode_dss_signature(der)
        return r.to_bytes(32, "big") + min(s, ORDER - s).to_bytes(32, "big")
    except (ValueError, OverflowError) as error:
        raise MalformedError("signature: not DER of a signature on P-256") from error


def verify(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bytes:
    """Verify a raw low-s signature and return the message.

    Raises:
        MalformedError: not 64 bytes, or s above n/2.
        UntrustedError: the signature does not verify (code ``signature``).
    """
    if len(signature) != SIGNATURE_SIZE:
        raise MalformedError(f"signature: {len(signature)} bytes, not {SIGNATURE_SIZE}")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if s > ORDER // 2:
        raise MalformedError("signature: s is above half the group order", code="high-s")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise UntrustedError("the signature does not verify", code="signature") from error
    return message
