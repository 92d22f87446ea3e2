"""DSSE envelopes (secure-systems-lab/dsse v1.0.2), restricted to one spelling.

The signatures stand in the order of the entry's verifiers, exactly one each, are raw low-s ECDSA P-256
and carry no key id: anything else would let someone else's envelope be logged twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import jcs, p256
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError

MAX_SIGNATURES = 16


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its type, and signatures over both; parsed, nothing believed."""

    payload_type: str
    payload: bytes
    signatures: tuple[bytes, ...]

    def to_json(self) -> jcs.Json:
        """``{"payload": base64, "payloadType", "signatures": [{"sig": base64}]}``."""
        return {
            "payload": strict.base64_text(self.payload),
            "payloadType": self.payload_type,
            "signatures": [{"sig": strict.base64_text(signature)} for signature in self.signatures],
        }


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: what is signed. Lengths count bytes, not characters."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_envelope(value: jcs.Json, *, what: str) -> Envelope:
    """Read an envelope.

    Raises:
        MalformedError: unknown members, no signature or more than 16, or a signature that is not 64 bytes.
    """
    fields = jcs.Fields(value, what=what, required=("payload", "payloadType", "signatures"))
    signatures = [
        jcs.Fields(item, what=fields.name("signatures"), required=("sig",)).base64(
            "sig", length=p256.SIGNATURE_SIZE
        )
        for item in fields.array("signatures", max_items=MAX_SIGNATURES)
    ]
    if not signatures:
        raise MalformedError(f"{what}: no signature")
    return Envelope(fields.text("payloadType"), fields.base64("payload"), tuple(signatures))


def sign(payload_type: str, payload: bytes, keys: Sequence[ec.EllipticCurvePrivateKey]) -> Envelope:
    """Sign a payload with every key, in order."""
    message = pae(payload_type, payload)
    return Envelope(payload_type, payload, tuple(p256.sign(key, message) for key in keys))


def verify(envelope: Envelope, *, verifiers: Sequence[bytes], payload_type: str) -> bytes:
    """Verify signature k under verifier k, for all of them, and return the payload.

    Args:
        envelope: what was parsed.
        verifiers: SPKI DER of P-256 keys, as many as signatures, all different.
        payload_type: the type that the caller is about to interpret the payload as.

    Raises:
        MalformedError: another number of verifiers, one twice, or an unusable key.
        UntrustedError: a signature that does not verify, or another payload type.
    """
    if len(verifiers) != len(envelope.signatures):
        raise MalformedError(f"{len(envelope.signatures)} signatures but {len(verifiers)} verifiers")
    if len(set(verifiers)) != len(verifiers):
        raise MalformedError("the same verifier stands twice")
    if envelope.payload_type != payload_type:
        raise UntrustedError(
            f"payload type {strict.shown(envelope.payload_type)} is not {payload_type!r}", code="payload-type"
        )
    message = pae(envelope.payload_type, envelope.payload)
    for der, signature in zip(verifiers, envelope.signatures, strict=True):
        p256.verify(p256.parse_spki(der), signature, message)
    return envelope.payload
