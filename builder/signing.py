"""Signing statements: with keys, or with whatever else gives a signature and says how to verify it.

An envelope's signatures stand in the order of its signers: keys as the publisher named them, then a certificate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import dsse, p256, statement
from assay.attest.dsse import Envelope
from assay.attest.entry import Attestation, Verifier
from assay.attest.statement import Statement


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature over a message.

    Attributes:
        raw: as our formats carry it: r and s in 32 bytes each, s low.
        der: as it was made, and as Sigstore's formats carry it.
        verifier: what it is verified with.
        timestamps: RFC 3161 responses over ``der``.
    """

    raw: bytes
    der: bytes
    verifier: Verifier
    timestamps: tuple[bytes, ...] = ()


class Signer(Protocol):
    """Signs messages with one key, or with a new key and certificate for each."""

    def sign(self, message: bytes) -> Signature:
        """Sign a message.

        Raises:
            LogError: it cannot.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeySigner:
    """A P-256 key."""

    key: ec.EllipticCurvePrivateKey

    def sign(self, message: bytes) -> Signature:
        """Sign a message; deterministic."""
        raw = p256.sign(self.key, message)
        return Signature(raw, p256.signature_to_der(raw), p256.spki(self.key.public_key()))


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement's entry, and its signatures as they were made."""

    attestation: Attestation
    signatures: tuple[Signature, ...]


def sign_statement(said: Statement, signers: Sequence[Signer]) -> SignedStatement:
    """Sign a statement with every signer, in order.

    Raises:
        LogError: one cannot sign.
    """
    payload = said.payload()
    message = dsse.pae(statement.PAYLOAD_TYPE, payload)
    signatures = tuple(signer.sign(message) for signer in signers)
    envelope = Envelope(statement.PAYLOAD_TYPE, payload, tuple(each.raw for each in signatures))
    return SignedStatement(Attestation(envelope, tuple(each.verifier for each in signatures)), signatures)


def signature_at(attestation: Attestation, position: int) -> Signature:
    """One of an entry's signatures; of what was made with it, nothing else is kept there."""
    raw = attestation.envelope.signatures[position]
    return Signature(raw, p256.signature_to_der(raw), attestation.verifiers[position])
