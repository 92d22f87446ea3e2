"""A logged statement as a Sigstore bundle v0.3 (``sigstore_bundle.proto`` of sigstore/protobuf-specs, as JSON).

Its transparency log is ours: the entry is the ``hashedrekord`` 0.0.2 of the envelope's pre-authentication encoding, as
Rekor v2 logs envelopes. A bundle has one signature. By a certificate, and with a timestamp over the signature, it is
one that every Sigstore client verifies; by a key, one for clients that take a key from their caller (cosign and
``@sigstore/verify``; ``sigstore`` for Python takes none).
"""

import hashlib
import json

from assay.attest import dsse, jcs, p256
from assay.attest.bundle import Logged
from assay.attest.dsse import Envelope
from assay.attest.entry import Attestation, CertificateVerifier
from assay.attest.hashedrekord import HashedRekord, VerifierKind
from assay.attest.sigstore_roots import MAX_ROOTS_SIZE
from assay.attest.transparency_entry import log_id, transparency_log_entry
from assay.builder.signing import Signature
from assay.client.log import LogClient
from assay.tlog import strict
from assay.tlog.checkpoint import parse_signed_checkpoint
from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.keys import KeyType
from assay.tlog.policy import Policy

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
"""RFC 8410 §4: what stands before the 32 bytes of the key."""


def hashedrekord_of(envelope: Envelope, signature: Signature) -> HashedRekord:
    """The entry by which Sigstore's clients find the envelope in a log."""
    certified = isinstance(signature.verifier, CertificateVerifier)
    return HashedRekord(
        digest=hashlib.sha256(dsse.pae(envelope.payload_type, envelope.payload)).digest(),
        signature=signature.der,
        key_details="PKIX_ECDSA_P256_SHA_256",
        verifier_kind=VerifierKind.CERTIFICATE if certified else VerifierKind.PUBLIC_KEY,
        verifier=_der(signature),
    )


def format_sigstore_bundle(
    envelope: Envelope, signature: Signature, logged: Logged, *, policy: Policy
) -> bytes:
    """The bundle's file.

    Args:
        envelope: what was signed.
        signature: the one that the bundle carries.
        logged: the envelope's :func:`hashedrekord_of` with its proof, which verified under ``policy``.
        policy: knows the log's keys.

    Raises:
        UntrustedError: the log's origin is no plain host name, so that no client would accept it (code ``origin``).
    """
    origin = parse_signed_checkpoint(logged.proof.checkpoint).checkpoint.origin
    require_host_name(origin)
    entry = transparency_log_entry(logged.leaf, logged.proof, keys=policy.log_keys(origin))
    del entry["inclusionPromise"]  # there is none
    value = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {**_verifier(signature), "tlogEntries": [entry], **_timestamps(signature)},
        "dsseEnvelope": {
            "payload": strict.base64_text(envelope.payload),
            "payloadType": envelope.payload_type,
            "signatures": [{"sig": strict.base64_text(signature.der)}],
        },
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def export(attestation: Attestation, signature: Signature, *, log: LogClient, policy: Policy) -> bytes:
    """Have the log take in what Sigstore's clients look for, unless it has it, and make the bundle.

    Args:
        attestation: the statement's entry; its signatures verified.
        signature: one of its signatures.
        log: where to; its proof is verified.
        policy: by which it is.

    Raises:
        LogError: the log refuses the entry or does not answer.
        UntrustedError: a certificate without a timestamp over its signature, which no client would accept (code
            ``no-timestamp``), or another kind of origin (``origin``).
    """
    if isinstance(signature.verifier, CertificateVerifier) and not signature.timestamps:
        raise UntrustedError(
            "a signature by a certificate needs a timestamp that was made with it: export it when you publish",
            code="no-timestamp",
        )
    for origin in policy.origins:
        require_host_name(origin)
    submitted = log.submit(hashedrekord_of(attestation.envelope, signature).leaf())
    return format_sigstore_bundle(attestation.envelope, signature, submitted.logged, policy=policy)


def trusted_root_with_log(trusted_root: bytes, origin: str, policy: Policy) -> bytes:
    """The pinned TrustedRoot with our log in it: what Sigstore's clients verify our bundles under.

    Raises:
        MalformedError: not a TrustedRoot.
        UntrustedError: as :func:`tlog_instance`.
    """
    value = jcs.parse_json(trusted_root, what="trusted root", max_bytes=MAX_ROOTS_SIZE)
    if not isinstance(value, dict) or not isinstance(value.get("tlogs", []), list):
        raise MalformedError("Sigstore roots: no TrustedRoot", code="sigstore-roots")
    value["tlogs"] = [*value.get("tlogs", []), tlog_instance(origin, policy)]
    return json.dumps(value, indent=1).encode() + b"\n"


def tlog_instance(origin: str, policy: Policy) -> dict[str, jcs.Json]:
    """Our log as a TrustedRoot lists it among its ``tlogs``.

    Raises:
        UntrustedError: as :func:`format_sigstore_bundle`, or the policy does not know the log.
    """
    require_host_name(origin)
    keys = policy.log_keys(origin)
    (key,) = (key for key in keys if key.type is KeyType.ED25519)
    return {
        "baseUrl": f"https://{origin}",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": strict.base64_text(_ED25519_SPKI + key.public_key),
            "keyDetails": "PKIX_ED25519",
            "validFor": {"start": "1970-01-01T00:00:00Z"},
        },
        "logId": {"keyId": strict.base64_text(log_id(keys))},
    }


def require_host_name(origin: str) -> None:
    """Check that Sigstore's clients can take this for a log's name.

    Raises:
        UntrustedError: it has a path, a port or a space (code ``origin``).
    """
    if any(mark in origin for mark in "/: "):
        raise UntrustedError(
            f"Sigstore's clients accept a log only if its origin is a plain host name, not {strict.shown(origin)}",
            code="origin",
        )


def _verifier(signature: Signature) -> dict[str, jcs.Json]:
    if isinstance(signature.verifier, CertificateVerifier):
        return {"certificate": {"rawBytes": strict.base64_text(signature.verifier.der)}}
    return {"publicKey": {"hint": p256.signer_id(signature.verifier)}}


def _timestamps(signature: Signature) -> dict[str, jcs.Json]:
    if not signature.timestamps:
        return {}
    responses = [{"signedTimestamp": strict.base64_text(each)} for each in signature.timestamps]
    return {"timestampVerificationData": {"rfc3161Timestamps": responses}}


def _der(signature: Signature) -> bytes:
    verifier = signature.verifier
    return verifier.der if isinstance(verifier, CertificateVerifier) else verifier
