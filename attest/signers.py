"""Who signed an attestation: keys by their ids, and certificates, whose identities somebody has yet to judge."""

from assay.attest import p256
from assay.attest.entry import Attestation, CertificateVerifier, Verifier
from assay.attest.sigstore_certificate import SigningCertificate, parse_signing_certificate


def spki_of(verifier: Verifier) -> bytes:
    """The SPKI DER of the key that a verifier names or certifies.

    Raises:
        MalformedError: a certificate that is none of Sigstore's form (code ``certificate``).
    """
    return (
        parse_signing_certificate(verifier.der).spki
        if isinstance(verifier, CertificateVerifier)
        else verifier
    )


def key_ids(attestation: Attestation) -> tuple[str, ...]:
    """The hex ids of the signers that are plain keys, in order. A certified key stands for its identity alone."""
    return tuple(
        p256.signer_id(verifier) for verifier in attestation.verifiers if isinstance(verifier, bytes)
    )


def certificates(attestation: Attestation) -> tuple[SigningCertificate, ...]:
    """The certificates among the verifiers, in order; nothing in them is believed.

    Raises:
        MalformedError: one is none of Sigstore's form (code ``certificate``).
    """
    return tuple(
        parse_signing_certificate(verifier.der)
        for verifier in attestation.verifiers
        if isinstance(verifier, CertificateVerifier)
    )
