"""The index: what an entry is known by (its identity) and found by (its terms).

Both are pure functions of the leaf's bytes, so that anyone can rebuild the index of a log and see whether a
search left something out.
"""

import hashlib
from dataclasses import dataclass
from typing import assert_never

from assay.attest import claims, entry, p256, prehashed, statement
from assay.attest.entry import Attestation, EnclaveSubmission, ReceiptEntry, Registration
from assay.attest.hashedrekord import HashedRekord
from assay.attest.prehashed import Verifier
from assay.attest.quote import sgx
from assay.attest.receipt import SignedReceipt
from assay.attest.statement import Predicate, Provenance, Rebuild, Release, Statement
from assay.tlog import merkle
from assay.tlog.errors import MalformedError

Term = tuple[str, str]
"""An index term: a name such as ``mrenclave`` and its value."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """An entry's kind, its identity (32 bytes; two entries of one identity are the same entry) and its terms."""

    kind: str
    identity: bytes
    terms: tuple[Term, ...]


def index_leaf(leaf: bytes) -> Indexed:
    """Index a logged leaf. No signature is verified: the log that admitted it did that.

    Raises:
        MalformedError: not a leaf of a known kind.
    """
    parsed = entry.parse_entry(leaf)
    kind = entry.kind_of(parsed)
    match parsed:
        case Attestation():
            said = statement.parse_statement(parsed.envelope.payload)
            return Indexed(kind, merkle.leaf_hash(leaf), attestation_terms(parsed, said))
        case Registration():
            evidence_id = sgx.parse_quote(parsed.evidence.quote).evidence_id
            return Indexed(kind, enclave_identity(parsed.evidence, evidence_id), enclave_terms(parsed))
        case ReceiptEntry():
            return Indexed(kind, parsed.signed.id, receipt_terms(parsed.signed))
        case HashedRekord():
            verifier = prehashed.parse_verifier(parsed.verifier, certificate=parsed.certificate)
            return Indexed(kind, merkle.leaf_hash(leaf), hashedrekord_terms(parsed, verifier))
        case EnclaveSubmission():
            raise MalformedError("a submission without an appraisal is no leaf", code="unknown-kind")
        case _:
            assert_never(parsed)


def attestation_terms(attestation: Attestation, said: Statement) -> tuple[Term, ...]:
    """By predicate, signers, subjects, and what the predicate names."""
    terms = [("kind", "attestation"), ("predicate", statement.predicate_type(said.predicate))]
    terms += [("signer", p256.signer_id(der)) for der in attestation.verifiers]
    terms += _subject_terms(said) + _predicate_terms(said.predicate)
    return tuple(dict.fromkeys(terms))


def enclave_identity(evidence: claims.Evidence, evidence_id: str) -> bytes:
    """SHA-256(evidence id ‖ digest of the claims).

    The same evidence under another spelling of its signature, or with other certificate text around it, is the
    same registration.
    """
    return hashlib.sha256(bytes.fromhex(evidence_id) + evidence.claims.digest()).digest()


def enclave_terms(registration: Registration) -> tuple[Term, ...]:
    """By enclave, boot, measurement and platform."""
    evidence = registration.evidence
    report = sgx.parse_quote(evidence.quote).body
    return (
        ("kind", "enclave"),
        ("enclave", p256.signer_id(evidence.public_key)),
        ("boot", evidence.claims.boot_id.hex()),
        ("mrenclave", report.mr_enclave.hex()),
        ("mrsigner", report.mr_signer.hex()),
        ("platform", registration.appraisal.platform),
    )


def receipt_terms(signed: SignedReceipt) -> tuple[Term, ...]:
    """By enclave, boot, place in the boot's sequence, and registration."""
    said = signed.receipt
    return (
        ("kind", "receipt"),
        ("enclave", said.enclave_id.hex()),
        ("boot", said.boot_id.hex()),
        ("sequence", f"{said.enclave_id.hex()}/{said.boot_id.hex()}/{said.sequence}"),
        ("registration", said.registration.hex()),
    )


def hashedrekord_terms(record: HashedRekord, verifier: Verifier) -> tuple[Term, ...]:
    """By digest, key, and the identities in a certificate."""
    digest = [("sha256", record.digest.hex())] if record.algorithm == "SHA2_256" else []
    return (
        ("kind", "hashedrekord"),
        ("signer", p256.signer_id(verifier.spki)),
        *digest,
        *(("identity", name) for name in verifier.identities),
    )


def _subject_terms(said: Statement) -> list[Term]:
    terms = []
    for subject in said.subjects:
        if "sgxMrEnclave" in subject.digest:
            terms.append(("mrenclave", subject.digest["sgxMrEnclave"].hex()))
        if "sha256" in subject.digest:
            terms.append(("sha256", subject.digest["sha256"].hex()))
    return terms


def _predicate_terms(predicate: Predicate) -> list[Term]:
    match predicate:
        case Release():
            signer = [] if predicate.mr_signer is None else [("mrsigner", predicate.mr_signer.hex())]
            return [
                ("product", predicate.product),
                ("release", f"{predicate.product}@{predicate.release}"),
                *signer,
            ]
        case Rebuild():
            return [
                ("product", predicate.product),
                ("release", f"{predicate.product}@{predicate.release}"),
                ("subject", predicate.release_leaf.hex()),
                ("verdict", str(predicate.verdict)),
            ]
        case Provenance():
            return []
        case _:
            assert_never(predicate)
