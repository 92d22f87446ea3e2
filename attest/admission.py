"""The rules by which an entry may enter a log.

Pure functions, so that the log that admits and the auditor that re-checks share them. State and collateral
are passed in; nothing is looked up here. Every rule returns :class:`Admitted` or raises; none returns "no".
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from assay.attest import claims, dsse, entry, index, receipt, rekor_signature, signers, statement
from assay.attest.entry import Appraisal, Attestation, EnclaveSubmission, ReceiptEntry, Registration
from assay.attest.hashedrekord import HashedRekord
from assay.attest.index import Indexed, Term
from assay.attest.quote import sgx
from assay.attest.quote.collateral import Collateral, format_collateral
from assay.attest.quote.pcs_response import PcsResponses
from assay.attest.quote.verify import VerifiedSgxQuote, verify_sgx_quote
from assay.attest.roots import TrustedRoot
from assay.attest.sigstore_certificate import Identity
from assay.attest.sigstore_identity import IdentityJudgement, verify_identity
from assay.attest.statement import Release, Statement
from assay.tlog.errors import UntrustedError
from assay.tlog.merkle import Hash


@dataclass(frozen=True, slots=True)
class Admitted:
    """An entry that the rules let in.

    Attributes:
        leaf: the exact bytes to log.
        identity: 32 bytes; two entries of one identity are the same entry.
        kind: the leaf's kind.
        terms: what the entry is found by.
        blobs: evidence to keep beside the log, addressed by SHA-256.
    """

    leaf: bytes
    identity: bytes
    kind: str
    terms: tuple[Term, ...]
    blobs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Publishers:
    """Who may publish for one product: ``threshold`` of all that are named here must sign.

    Attributes:
        threshold: how many.
        signers: hex ids of keys.
        identities: whom a certificate must name, if it is a certificate that signs.
    """

    threshold: int
    signers: frozenset[str]
    identities: frozenset[Identity] = frozenset()

    def __post_init__(self) -> None:
        """A threshold of 0, or one that cannot be met, is a mistake in a policy.

        Raises:
            ValueError: that.
        """
        if not 1 <= self.threshold <= self.count:
            raise ValueError(f"a threshold of {self.threshold} of {self.count} keys and identities")

    @property
    def count(self) -> int:
        """How many keys and identities there are."""
        return len(self.signers) + len(self.identities)


def admit_attestation(
    attestation: Attestation,
    *,
    publishers: Mapping[str, Publishers] | None,
    judgement: IdentityJudgement | None = None,
) -> Admitted:
    """Admit a statement whose every signature verifies, and every certificate.

    A log that cannot judge certificates admits none: around anyone's signature anyone can put a certificate of their
    own making, with the same key and any name.

    Args:
        attestation: the parsed entry.
        publishers: product -> who may publish its releases; None admits any signer, as a public log does.
        judgement: pinned roots and the log's clock, by which certificates are judged; None admits no certificate.

    Raises:
        MalformedError: an unknown or malformed predicate, or a malformed certificate (code ``certificate``).
        StaleError: a certificate that is not in force now (code ``certificate-time``).
        UntrustedError: a bad signature, a certificate that the roots do not vouch for (``certificate-chain``,
            ``certificate-sct``, ``no-sigstore-roots``), or signers that may not publish for the product
            (``publisher``).
    """
    verified = verify_attestation(attestation)
    identities = _admitted_identities(attestation, judgement)
    if isinstance(verified.predicate, Release) and publishers is not None:
        keys = signers.key_ids(attestation)
        verify_publishers(verified.predicate.product, keys, publishers, identities=identities)
    leaf = entry.format_entry(attestation)
    return _admitted(leaf, index.index_attestation(attestation, verified, leaf))


def _admitted_identities(attestation: Attestation, judgement: IdentityJudgement | None) -> list[Identity]:
    found = signers.certificates(attestation)
    if found and judgement is None:
        raise UntrustedError(
            "this log has no Sigstore roots to judge a certificate by", code="no-sigstore-roots"
        )
    return [] if judgement is None else [verify_identity(each, judgement) for each in found]


def verify_attestation(attestation: Attestation) -> Statement:
    """Verify every signature and parse the statement; what certificates say besides their key is not judged.

    Raises:
        MalformedError: a malformed statement or certificate, or a key twice.
        UntrustedError: a bad signature or another payload type.
    """
    keys = [signers.spki_of(verifier) for verifier in attestation.verifiers]
    payload = dsse.verify(attestation.envelope, verifiers=keys, payload_type=statement.PAYLOAD_TYPE)
    return statement.parse_statement(payload)


def verify_publishers(
    product: str,
    signers: Sequence[str],
    publishers: Mapping[str, Publishers],
    *,
    identities: Collection[Identity] = (),
) -> frozenset[str | Identity]:
    """Check that enough of a product's publishers signed, and return which did; each counts once.

    Args:
        product: whose release it is.
        signers: hex ids of the keys whose signatures verified.
        publishers: product -> who may publish for it.
        identities: of the certificates whose signatures verified, and which were judged themselves.

    Raises:
        UntrustedError: the product is not listed, or too few of its publishers signed (code ``publisher``).
    """
    if product not in publishers:
        raise UntrustedError(f"nobody is listed as publisher of {product!r}", code="publisher")
    rule = publishers[product]
    signed: frozenset[str | Identity] = rule.signers.intersection(signers)
    signed |= rule.identities.intersection(identities)
    if len(signed) < rule.threshold:
        raise UntrustedError(
            f"{len(signed)} of {product!r}'s publishers signed, {rule.threshold} must", code="publisher"
        )
    return signed


def verify_evidence(
    evidence: claims.Evidence, *, collateral: Collateral, root: TrustedRoot, now_s: int
) -> VerifiedSgxQuote:
    """Verify an enclave's evidence: the quote under one root, then possession, then the binding of the claims.

    Raises:
        MalformedError, StaleError, UntrustedError: with the code of the check that failed.
    """
    quote = verify_sgx_quote(evidence.quote, collateral, root=root, now_s=now_s)
    claims.verify_possession(evidence)
    claims.verify_binding(evidence, quoted_report_data=quote.report_data)
    return quote


def admit_enclave(
    submission: EnclaveSubmission,
    *,
    origin: str,
    collateral: Collateral,
    responses: PcsResponses | None = None,
    root: TrustedRoot,
    now_ms: int,
) -> Admitted:
    """Judge an enclave's evidence and admit it with the appraisal attached.

    An MRENCLAVE that nobody published is admitted too: the log records what runs, a policy judges it.

    Args:
        submission: evidence without appraisal.
        origin: of this log; evidence that names another log is not for us.
        collateral: fetched by the log itself, never taken from the submitter.
        responses: the answers that it was put together from, to be kept with it; None if there are none.
        root: an admitted root.
        now_ms: the log's clock, Unix ms.

    Raises:
        MalformedError, StaleError, UntrustedError: the quote, possession or binding does not verify, or the
            claims name another log (code ``other-log``).
    """
    evidence = submission.evidence
    if evidence.claims.log_origin != origin:
        raise UntrustedError("the enclave's claims name another log", code="other-log")
    quote = verify_evidence(evidence, collateral=collateral, root=root, now_s=now_ms // 1000)
    blobs = {"dcap": format_collateral(collateral), **(responses.archived() if responses else {})}
    appraisal = Appraisal(
        collateral={name: hashlib.sha256(blob).digest() for name, blob in blobs.items()},
        root=root.name,
        platform=quote.platform,
        tcb_status=quote.tcb_status,
        advisories=tuple(sorted(set(quote.advisories))),
        appraised_at_ms=now_ms,
    )
    logged = Registration(evidence, appraisal)
    leaf = entry.format_entry(logged)
    entry.parse_entry(leaf)  # what we log must parse, whatever the root is called and Intel names
    indexed = index.index_registration(logged, sgx.parse_quote(evidence.quote))
    return _admitted(leaf, indexed, blobs=tuple(blobs.values()))


def admit_receipt(
    receipt_entry: ReceiptEntry, *, registration: Registration, registration_leaf: Hash
) -> Admitted:
    """Admit a receipt signed by the key of a registered boot, in whatever order receipts come.

    Args:
        receipt_entry: the parsed entry.
        registration: the ``enclave`` entry that the receipt names.
        registration_leaf: that entry's leaf hash.

    Raises:
        UntrustedError: another boot or registration (code ``registration``), or a bad signature.
    """
    signed = receipt_entry.signed
    verified = receipt.verify_receipt(signed, public_key=registration.evidence.public_key)
    if verified.registration != registration_leaf or verified.boot_id != registration.evidence.claims.boot_id:
        raise UntrustedError(
            "the receipt is not of the boot that it names as its registration", code="registration"
        )
    leaf = entry.format_entry(receipt_entry)
    return _admitted(leaf, index.index_entry(receipt_entry, leaf))


def admit_hashedrekord(rekord: HashedRekord) -> Admitted:
    """Admit a signature over a digest, by whatever key or certificate it names.

    That the key is no enclave's is for the log to say, which knows the enclaves.

    Raises:
        MalformedError: a key that is not admitted (code ``unsupported-key``).
        UntrustedError: a key of another kind than it says (code ``key-details``), or a bad signature.
    """
    signer = rekor_signature.verify(rekord)
    leaf = entry.format_entry(rekord)
    return _admitted(leaf, index.index_hashedrekord(rekord, signer, leaf))


def _admitted(leaf: bytes, indexed: Indexed, *, blobs: tuple[bytes, ...] = ()) -> Admitted:
    return Admitted(leaf, indexed.identity, indexed.kind, indexed.terms, blobs)
