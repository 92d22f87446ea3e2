"""Keys and ids of a simulated platform, derived from its seed."""

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import p256
from assay.tlog.errors import MalformedError

SEED_SIZE = 32


def derived(seed: bytes, label: str, *, size: int = 32) -> bytes:
    """SHA-256 of label, zero byte and seed, cut to ``size`` bytes.

    Raises:
        MalformedError: a seed of another size than 32 bytes.
    """
    if len(seed) != SEED_SIZE:
        raise MalformedError(f"seed: {len(seed)} bytes, not {SEED_SIZE}")
    return hashlib.sha256(b"assay-simulated-v1 " + label.encode() + b"\x00" + seed).digest()[:size]


def private_key(seed: bytes, label: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of that label: its scalar is the derived hash, reduced into [1, n - 1]."""
    scalar = int.from_bytes(derived(seed, label), "big") % (p256.ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as x ‖ y, 64 bytes big-endian: the form of a quote."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
