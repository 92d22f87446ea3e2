"""The log entry: what a leaf is.

A leaf is RFC 8785 JSON ``{"apiVersion", "kind", "spec"}`` of at most 65,535 bytes. Three kinds are our own and
``hashedrekord`` is Rekor's; each has a version of its own and one typed form, and ``parse_entry(format_entry(entry))``
gives that back. Parsing believes nothing: the rules of ``admission`` do the judging.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from assay.attest import claims, dsse, hashedrekord, jcs, receipt
from assay.attest.claims import Evidence
from assay.attest.dsse import Envelope
from assay.attest.hashedrekord import HashedRekord
from assay.attest.receipt import SignedReceipt
from assay.tlog import merkle, strict
from assay.tlog.errors import MalformedError
from assay.tlog.merkle import Hash

MAX_LEAF_SIZE = 65_535
API_VERSION = "0.1.0"
"""Of our own kinds."""
API_VERSIONS = {
    "attestation": API_VERSION,
    "enclave": API_VERSION,
    hashedrekord.KIND: hashedrekord.API_VERSION,
    "receipt": API_VERSION,
}
KINDS = tuple(API_VERSIONS)
MAX_VERIFIER_SIZE = 4096
COLLATERAL_RESPONSES = ("pck_crl", "qe_identity", "root_ca_crl", "tcb_info")
"""Names in an appraisal's collateral beside ``dcap``: the service's answers, as they came; all of them or none."""


@dataclass(frozen=True, slots=True)
class CertificateVerifier:
    """A signature's verifier that is an X.509 certificate (DER): its key signed, in the name of its identity."""

    der: bytes


Verifier = bytes | CertificateVerifier
"""What a signature is verified with: the SPKI DER of a key, or a certificate."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """A DSSE envelope around an in-toto statement, and what its signatures are verified with, in their order."""

    envelope: Envelope
    verifiers: tuple[Verifier, ...]

    def spec(self) -> jcs.Json:
        """``{"envelope", "verifiers": [{"publicKey" or "x509Certificate": {"rawBytes": base64}}]}``."""
        return {
            "envelope": self.envelope.to_json(),
            "verifiers": [_verifier_json(verifier) for verifier in self.verifiers],
        }


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What the log found when it judged an enclave's quote; added by the log, never by the submitter.

    Attributes:
        collateral: name -> SHA-256 of the evidence the quote was judged with, kept beside the log: ``dcap``, and
            the answers that it was put together from (:data:`COLLATERAL_RESPONSES`) where the log has them.
        root: the admitted root's name; ``platform`` (intel, simulated, custom) derives from the root itself.
        tcb_status: as Intel names it; ``advisories`` apply to it, sorted.
        appraised_at_ms: the log's clock.
    """

    collateral: Mapping[str, bytes]
    root: str
    platform: str
    tcb_status: str
    advisories: tuple[str, ...]
    appraised_at_ms: int

    def to_json(self) -> jcs.Json:
        """The ``appraisal`` member."""
        return {
            "advisories": list(self.advisories),
            "appraised_at": self.appraised_at_ms,
            "collateral": {name: digest.hex() for name, digest in self.collateral.items()},
            "platform": self.platform,
            "root": self.root,
            "tcb_status": self.tcb_status,
        }


@dataclass(frozen=True, slots=True)
class EnclaveSubmission:
    """An enclave's registration as it is submitted: evidence that the log has yet to appraise."""

    evidence: Evidence

    def spec(self) -> jcs.Json:
        """``{"evidence"}``."""
        return {"evidence": self.evidence.to_json()}


@dataclass(frozen=True, slots=True)
class Registration:
    """An enclave's registration as it is logged."""

    evidence: Evidence
    appraisal: Appraisal

    def spec(self) -> jcs.Json:
        """``{"appraisal", "evidence"}``."""
        return {"appraisal": self.appraisal.to_json(), "evidence": self.evidence.to_json()}


@dataclass(frozen=True, slots=True)
class ReceiptEntry:
    """A receipt as COSE_Sign1."""

    signed: SignedReceipt

    def spec(self) -> jcs.Json:
        """``{"cose": base64}``."""
        return {"cose": strict.base64_text(self.signed.cose)}


OwnEntry = Attestation | EnclaveSubmission | Registration | ReceiptEntry
Entry = OwnEntry | HashedRekord


def kind_of(entry: Entry) -> str:
    """The ``kind`` member."""
    match entry:
        case Attestation():
            return "attestation"
        case EnclaveSubmission() | Registration():
            return "enclave"
        case ReceiptEntry():
            return "receipt"
        case HashedRekord():
            return hashedrekord.KIND
        case _:
            assert_never(entry)


def format_entry(entry: Entry) -> bytes:
    """The canonical bytes: of the leaf, or for a submission of the request's body.

    Raises:
        MalformedError: longer than a leaf may be (code ``too-large``).
    """
    if isinstance(entry, HashedRekord):
        data = entry.leaf()
    else:
        data = jcs.canonical({"apiVersion": API_VERSION, "kind": kind_of(entry), "spec": entry.spec()})
    if len(data) > MAX_LEAF_SIZE:
        raise MalformedError(f"entry: {len(data)} bytes are more than {MAX_LEAF_SIZE}", code="too-large")
    return data


def parse_entry(data: bytes) -> Entry:
    """Parse a leaf, or a submission.

    Raises:
        MalformedError: too large, not canonical, an unknown kind (code ``unknown-kind``) or version, or a spec
            that is not the kind's.
    """
    if len(data) <= MAX_LEAF_SIZE and data.startswith(hashedrekord.PREFIX):
        return hashedrekord.parse_leaf(
            data
        )  # no detour: the kind that comes most, and its parser is as strict
    value = jcs.parse_canonical(data, what="entry", max_bytes=MAX_LEAF_SIZE)
    fields = jcs.Fields(value, what="entry", required=("apiVersion", "kind", "spec"))
    kind = fields.text("kind")
    if kind not in KINDS:
        raise MalformedError(f"entry.kind: {strict.shown(kind)} is not known", code="unknown-kind")
    if fields.text("apiVersion") != API_VERSIONS[kind]:
        raise MalformedError(
            f"entry.apiVersion: of {kind} only {API_VERSIONS[kind]} is known", code="unknown-version"
        )
    spec = fields.value("spec")
    match kind:
        case "attestation":
            return _parse_attestation(spec)
        case "enclave":
            return _parse_enclave(spec)
        case hashedrekord.KIND:
            return hashedrekord.parse_leaf(data)
        case _:
            return _parse_receipt(spec)


def leaf_hash_of(entry: Entry) -> Hash:
    """The RFC 6962 hash of the entry's leaf."""
    return merkle.leaf_hash(format_entry(entry))


def _parse_attestation(spec: jcs.Json) -> Attestation:
    fields = jcs.Fields(spec, what="attestation", required=("envelope", "verifiers"))
    envelope = dsse.parse_envelope(fields.value("envelope"), what=fields.name("envelope"))
    verifiers = fields.array("verifiers", max_items=dsse.MAX_SIGNATURES)
    return Attestation(envelope, tuple(_parse_verifier(item) for item in verifiers))


def _verifier_json(verifier: Verifier) -> jcs.Json:
    if isinstance(verifier, CertificateVerifier):
        return {"x509Certificate": {"rawBytes": strict.base64_text(verifier.der)}}
    return {"publicKey": {"rawBytes": strict.base64_text(verifier)}}


def _parse_verifier(value: jcs.Json) -> Verifier:
    kinds = ("publicKey", "x509Certificate")
    verifier = jcs.Fields(value, what="attestation.verifiers", required=(), optional=kinds)
    if verifier.has("publicKey") == verifier.has("x509Certificate"):
        raise MalformedError("attestation.verifiers: either a public key or a certificate")
    kind = "publicKey" if verifier.has("publicKey") else "x509Certificate"
    der = verifier.fields(kind, required=("rawBytes",)).base64("rawBytes", max_length=MAX_VERIFIER_SIZE)
    return der if kind == "publicKey" else CertificateVerifier(der)


def _parse_enclave(spec: jcs.Json) -> EnclaveSubmission | Registration:
    fields = jcs.Fields(spec, what="enclave", required=("evidence",), optional=("appraisal",))
    evidence = claims.parse_evidence(fields.value("evidence"), what=fields.name("evidence"))
    if not fields.has("appraisal"):
        return EnclaveSubmission(evidence)
    return Registration(evidence, _parse_appraisal(fields))


def _parse_appraisal(enclave: jcs.Fields) -> Appraisal:
    fields = enclave.fields(
        "appraisal",
        required=("advisories", "appraised_at", "collateral", "platform", "root", "tcb_status"),
    )
    return Appraisal(
        collateral=_parse_collateral(fields),
        root=fields.text("root", max_length=64),
        platform=fields.text("platform", max_length=16),
        tcb_status=fields.text("tcb_status", max_length=64),
        advisories=fields.sorted_names("advisories", max_items=64, max_length=64),
        appraised_at_ms=fields.integer("appraised_at"),
    )


def _parse_collateral(appraisal: jcs.Fields) -> dict[str, bytes]:
    fields = appraisal.fields("collateral", required=("dcap",), optional=COLLATERAL_RESPONSES)
    responses = [name for name in COLLATERAL_RESPONSES if fields.has(name)]
    if responses and len(responses) != len(COLLATERAL_RESPONSES):
        raise MalformedError(f"{appraisal.name('collateral')}: only some of the service's answers")
    return {name: fields.hex(name, length=32) for name in ("dcap", *responses)}


def _parse_receipt(spec: jcs.Json) -> ReceiptEntry:
    fields = jcs.Fields(spec, what="receipt", required=("cose",))
    return ReceiptEntry(receipt.parse_receipt(fields.base64("cose", max_length=receipt.MAX_RECEIPT_SIZE)))
