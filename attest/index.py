"""What a leaf is found by, and which leaves are the same entry: a pure function of the leaf's bytes.

The log writes it beside the entry at admission, a log that is rebuilt from its tiles writes it again, and a map over
the log can be checked against it: so there is one source, and nothing but the leaf goes into it.
"""

import hashlib
from dataclasses import dataclass
from typing import assert_never

from assay.attest import claims, entry, p256, rekor_signature, signers, statement
from assay.attest.entry import (
    Appraisal,
    Attestation,
    CertificateVerifier,
    EnclaveSubmission,
    Entry,
    ReceiptEntry,
    Registration,
)
from assay.attest.hashedrekord import HashedRekord
from assay.attest.quote import sgx
from assay.attest.quote.sgx import QuoteV3
from assay.attest.receipt import Receipt
from assay.attest.rekor_signature import Signer
from assay.attest.sigstore_certificate import parse_signing_certificate
from assay.attest.statement import Predicate, Provenance, Rebuild, Release, Statement
from assay.tlog import merkle
from assay.tlog.errors import MalformedError

Term = tuple[str, str]
"""An index term: a name such as ``mrenclave`` and its value."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """What is kept of a leaf for finding it.

    Attributes:
        kind: the leaf's kind.
        identity: 32 bytes; two leaves of one identity are the same entry.
        terms: different ones, in a fixed order.
    """

    kind: str
    identity: bytes
    terms: tuple[Term, ...]


def index_leaf(leaf: bytes) -> Indexed:
    """The index of a leaf; nothing in it is verified, admission has done that.

    Raises:
        MalformedError: no leaf that a log of ours holds.
    """
    return index_entry(entry.parse_entry(leaf), leaf)


def index_entry(parsed: Entry, leaf: bytes) -> Indexed:
    """The index of a leaf that has been parsed.

    Raises:
        MalformedError: as :func:`index_leaf`.
    """
    match parsed:
        case Attestation():
            said = statement.parse_statement(parsed.envelope.payload)
            return index_attestation(parsed, said, leaf)
        case Registration():
            return index_registration(parsed, sgx.parse_quote(parsed.evidence.quote))
        case ReceiptEntry():
            return Indexed("receipt", parsed.signed.id, _receipt_terms(parsed.signed.receipt))
        case HashedRekord():
            return index_hashedrekord(parsed, rekor_signature.signer_of(parsed), leaf)
        case EnclaveSubmission():
            raise MalformedError("an enclave's evidence without its appraisal is no leaf")
        case _:
            assert_never(parsed)


def index_attestation(attestation: Attestation, said: Statement, leaf: bytes) -> Indexed:
    """The index of an attestation whose payload is the statement ``said``."""
    terms = [("kind", "attestation"), ("predicate", statement.predicate_type(said.predicate))]
    terms += [("signer", p256.signer_id(signers.spki_of(each))) for each in attestation.verifiers]
    terms += [("identity", each.identity.identity) for each in signers.certificates(attestation)]
    terms += _subject_terms(said) + _predicate_terms(said.predicate)
    return Indexed("attestation", _attestation_identity(attestation, leaf), tuple(dict.fromkeys(terms)))


def _attestation_identity(attestation: Attestation, leaf: bytes) -> bytes:
    """The leaf hash; with certificates, of the leaf that has of each only what its issuer signed.

    An issuer's ECDSA signature has a twin, so that the same certificate would else be logged a second time.
    """
    if not signers.certificates(attestation):
        return merkle.leaf_hash(leaf)
    signed = tuple(
        CertificateVerifier(parse_signing_certificate(each.der).tbs)
        if isinstance(each, CertificateVerifier)
        else each
        for each in attestation.verifiers
    )
    return entry.leaf_hash_of(Attestation(attestation.envelope, signed))


def index_registration(registration: Registration, quote: QuoteV3) -> Indexed:
    """The index of a registration whose evidence holds ``quote``."""
    evidence, appraisal = registration.evidence, registration.appraisal
    terms = _registration_terms(evidence, appraisal, quote)
    return Indexed("enclave", enclave_identity(evidence, quote), terms)


def enclave_identity(evidence: claims.Evidence, quote: QuoteV3) -> bytes:
    """SHA-256(evidence id ‖ digest of the claims).

    The same evidence under another spelling of its signature, or with other certificate text around it, is the
    same registration.
    """
    return hashlib.sha256(bytes.fromhex(quote.evidence_id) + evidence.claims.digest()).digest()


def index_hashedrekord(parsed: HashedRekord, signer: Signer, leaf: bytes) -> Indexed:
    """The index of an entry of Rekor's kind by ``signer``."""
    terms: list[Term] = [("kind", "hashedrekord")]
    if parsed.algorithm == "SHA2_256":
        terms.append(("sha256", parsed.digest.hex()))
    terms.append(("signer", signer.signer_id))
    terms += [("identity", name) for name in signer.identities]
    return Indexed("hashedrekord", merkle.leaf_hash(leaf), tuple(terms))


def _registration_terms(evidence: claims.Evidence, appraisal: Appraisal, quote: QuoteV3) -> tuple[Term, ...]:
    return (
        ("kind", "enclave"),
        ("enclave", p256.signer_id(evidence.public_key)),
        ("boot", evidence.claims.boot_id.hex()),
        ("mrenclave", quote.body.mr_enclave.hex()),
        ("mrsigner", quote.body.mr_signer.hex()),
        ("platform", appraisal.platform),
    )


def _receipt_terms(receipt: Receipt) -> tuple[Term, ...]:
    enclave, boot = receipt.enclave_id.hex(), receipt.boot_id.hex()
    return (
        ("kind", "receipt"),
        ("enclave", enclave),
        ("boot", boot),
        ("sequence", f"{enclave}/{boot}/{receipt.sequence}"),
        ("registration", receipt.registration.hex()),
    )


def _subject_terms(verified: Statement) -> list[Term]:
    terms = []
    for subject in verified.subjects:
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
