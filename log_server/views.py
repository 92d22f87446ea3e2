"""What a page says about an entry or a checkpoint: plain data, for the HTML page and its JSON twin alike.

A sentence for everyone, a table for the engineer, the raw bytes for the auditor. Nothing here says
"verified": a page served by the log cannot vouch for the log, and says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

from assay.attest import entry, jcs, p256, rekor_signature, signers, statement
from assay.attest.entry import Attestation, EnclaveSubmission, Entry, ReceiptEntry, Registration
from assay.attest.hashedrekord import HashedRekord, VerifierKind
from assay.attest.quote import sgx
from assay.attest.statement import Provenance, Rebuild, Release, Statement
from assay.tlog import merkle
from assay.tlog.merkle import Hash


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a decoded table: a label, a value, and what the value can be searched by, if anything."""

    label: str
    value: str
    term: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class EntryView:
    """An entry as a page shows it.

    Attributes:
        platform: the label of the root that the enclave's quote verified under; None where no enclave speaks.
        canonical: the leaf as text, exactly as it was hashed.
    """

    index: int
    leaf_hash: str
    kind: str
    title: str
    sentence: str
    platform: str | None
    rows: tuple[Row, ...]
    canonical: str

    def to_json(self) -> jcs.Json:
        """The JSON twin."""
        return {
            "index": self.index,
            "leaf_hash": self.leaf_hash,
            "kind": self.kind,
            "title": self.title,
            "sentence": self.sentence,
            "platform": self.platform,
            "decoded": {row.label: row.value for row in self.rows},
            "leaf": self.canonical,
        }


def moment(time_ms: int) -> str:
    """A time for people: absolute, UTC, to the second."""
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def entry_view(index: int, leaf: bytes, *, find: Callable[[Hash], bytes | None]) -> EntryView:
    """Decode a leaf of this log for display.

    ``find`` gives the leaf of a leaf hash: a receipt is shown with the platform of the boot it names.
    """
    parsed = entry.parse_entry(leaf)
    match parsed:
        case Attestation():
            title, sentence, rows = _attestation(parsed)
        case Registration():
            title, sentence, rows = _registration(parsed)
        case ReceiptEntry():
            title, sentence, rows = _receipt(parsed)
        case HashedRekord():
            title, sentence, rows = _hashedrekord(parsed)
        case EnclaveSubmission():
            title, sentence, rows = "enclave", "An enclave's evidence without an appraisal.", ()
        case _:
            assert_never(parsed)
    return EntryView(
        index=index,
        leaf_hash=merkle.leaf_hash(leaf).hex(),
        kind=entry.kind_of(parsed),
        title=title,
        sentence=sentence,
        platform=_platform(parsed, find),
        rows=rows,
        canonical=leaf.decode(),
    )


def _platform(parsed: Entry, find: Callable[[Hash], bytes | None]) -> str | None:
    if isinstance(parsed, ReceiptEntry):
        named = find(parsed.signed.receipt.registration)
        return None if named is None else _platform(entry.parse_entry(named), find)
    return parsed.appraisal.platform if isinstance(parsed, Registration) else None


_Decoded = tuple[str, str, tuple[Row, ...]]


def _attestation(attestation: Attestation) -> _Decoded:
    parsed = statement.parse_statement(attestation.envelope.payload)
    who = _signers(attestation)
    match parsed.predicate:
        case Release():
            title, sentence, rows = _release(parsed.predicate, who)
        case Rebuild():
            title, sentence, rows = _rebuild(parsed.predicate, who)
        case Provenance():
            title, sentence, rows = _provenance(parsed, who)
        case _:
            assert_never(parsed.predicate)
    return title, sentence, rows + who


def _signers(attestation: Attestation) -> tuple[Row, ...]:
    """Each signer: a key by its id; a certificate, which the log judged when it admitted it, by its identity."""
    keys = (Row("signed by", signer, ("signer", signer)) for signer in signers.key_ids(attestation))
    named = (each.identity for each in signers.certificates(attestation))
    return *keys, *(Row("signed by", str(each), ("identity", each.identity)) for each in named)


def _signer(who: tuple[Row, ...]) -> str:
    """The first signer, for a sentence."""
    name, _ = who[0].term or ("", "")
    return f"The holder of key {who[0].value[:16]}…" if name == "signer" else who[0].value


def _release(release: Release, who: tuple[Row, ...]) -> _Decoded:
    name = f"{release.product}@{release.release}"
    digests = release.digests
    rows = (
        Row("product", release.product, ("product", release.product)),
        Row("release", release.release, ("release", name)),
        Row("MRENCLAVE", digests.mr_enclave.hex(), ("mrenclave", digests.mr_enclave.hex())),
        Row("MRSIGNER", "not signed for launch" if release.mr_signer is None else release.mr_signer.hex()),
        *_sigstruct(release),
        Row("ISVPRODID, ISVSVN", f"{release.isv_prod_id}, {release.isv_svn}"),
        Row("manifest SHA-256", digests.manifest_sha256.hex(), ("sha256", digests.manifest_sha256.hex())),
        Row("tree SHA-256", digests.tree_sha256.hex(), ("sha256", digests.tree_sha256.hex())),
        Row("libpal SHA-256", digests.libpal_sha256.hex(), ("sha256", digests.libpal_sha256.hex())),
        Row("source SHA-256", release.source_sha256.hex()),
        Row("Gramine", release.gramine_version),
        Row("accepted advisories", ", ".join(release.advisories) or "none"),
        Row("valid from", moment(release.valid_from_ms)),
        Row("valid until", "no end" if release.valid_until_ms is None else moment(release.valid_until_ms)),
        Row("clients need accept it after", moment(release.effective_after_ms)),
    )
    sentence = f"{_signer(who)} says that {name} is this measurement."
    return f"release {name}", sentence, rows


def _sigstruct(release: Release) -> tuple[Row, ...]:
    if release.sigstruct_sha256 is None:
        return ()  # the row of MRSIGNER says so
    digest = release.sigstruct_sha256.hex()
    return (Row("SIGSTRUCT SHA-256", digest, ("sha256", digest)),)


def _rebuild(rebuild: Rebuild, who: tuple[Row, ...]) -> _Decoded:
    name = f"{rebuild.product}@{rebuild.release}"
    observed = "nothing was built" if rebuild.observed is None else rebuild.observed.mr_enclave.hex()
    rows = (
        Row("verdict", str(rebuild.verdict)),
        Row("release", name, ("release", name)),
        Row("release's leaf hash", rebuild.release_leaf.hex()),
        Row(
            "published MRENCLAVE",
            rebuild.expected.mr_enclave.hex(),
            ("mrenclave", rebuild.expected.mr_enclave.hex()),
        ),
        Row("rebuilt MRENCLAVE", observed),
        *(Row("differs", text) for text in rebuild.differences),
        Row("began", moment(rebuild.started_ms)),
        Row("ended", moment(rebuild.finished_ms)),
        Row("end of the build log", rebuild.log_tail or "empty"),
    )
    sentence = f"{_signer(who)} rebuilt {name} and reports {rebuild.verdict}."
    return f"rebuild of {name}: {rebuild.verdict}", sentence, rows


def _provenance(parsed: Statement, who: tuple[Row, ...]) -> _Decoded:
    provenance = parsed.predicate
    assert isinstance(provenance, Provenance)
    rows = (
        Row("build type", provenance.build_type),
        Row("builder", provenance.builder_id),
        *(
            Row(f"{subject.name} {algorithm}", digest.hex())
            for subject in parsed.subjects
            for algorithm, digest in subject.digest.items()
        ),
    )
    return "provenance", f"{_signer(who)} says how this was built.", rows


def _registration(registration: Registration) -> _Decoded:
    evidence, appraisal = registration.evidence, registration.appraisal
    report = sgx.parse_quote(evidence.quote).body
    enclave_id = p256.signer_id(evidence.public_key)
    rows = (
        Row("platform", appraisal.platform),
        Row("enclave id", enclave_id, ("enclave", enclave_id)),
        Row("boot id", evidence.claims.boot_id.hex()),
        Row("MRENCLAVE", report.mr_enclave.hex(), ("mrenclave", report.mr_enclave.hex())),
        Row("MRSIGNER", report.mr_signer.hex(), ("mrsigner", report.mr_signer.hex())),
        Row("TCB status", appraisal.tcb_status),
        Row("advisories", ", ".join(appraisal.advisories) or "none"),
        Row("root", appraisal.root),
        Row("appraised", moment(appraisal.appraised_at_ms)),
        *(
            Row(f"collateral SHA-256, {name}", sha256.hex())
            for name, sha256 in sorted(appraisal.collateral.items())
        ),
        Row("log policy SHA-256", evidence.claims.log_policy_sha256.hex()),
        Row("configuration SHA-256", evidence.claims.config_sha256.hex()),
    )
    sentence = f"An enclave on a platform of kind {appraisal.platform!r} started and registered its key."
    return f"enclave {enclave_id[:16]}…", sentence, rows


def _receipt(receipt_entry: ReceiptEntry) -> _Decoded:
    receipt = receipt_entry.signed.receipt
    enclave_id = receipt.enclave_id.hex()
    rows = (
        Row("enclave id", enclave_id, ("enclave", enclave_id)),
        Row("boot id", receipt.boot_id.hex()),
        Row("sequence", str(receipt.sequence)),
        Row("previous receipt", "none" if receipt.previous is None else receipt.previous.hex()),
        Row("registration's leaf hash", receipt.registration.hex()),
        Row("time claimed", moment(receipt.time_claimed_s * 1000)),
        Row("log head", f"size {receipt.log_head.size}, root {receipt.log_head.root.hex()}"),
        Row("log head cosigned", moment(receipt.log_head.cosigned_at_s * 1000)),
        Row("commitments", receipt.commitments.hex()),
        Row("receipt id", receipt_entry.signed.id.hex()),
    )
    sentence = "An enclave answered; what was asked and answered is only committed to here, under salts."
    return f"receipt {receipt.sequence} of enclave {enclave_id[:16]}…", sentence, rows


def _hashedrekord(rekord: HashedRekord) -> _Decoded:
    signer = rekor_signature.signer_of(rekord)
    digest = rekord.digest.hex()
    rows = (
        Row(rekord.algorithm, digest, ("sha256", digest) if rekord.algorithm == "SHA2_256" else None),
        Row("key", rekord.key_details),
        Row("key in", rekord.verifier_kind.value),
        Row("signed by", signer.signer_id, ("signer", signer.signer_id)),
        *(Row("certificate names", name, ("identity", name)) for name in signer.identities),
        Row("signature", rekord.signature.hex()),
    )
    sentence = f"The holder of key {signer.signer_id[:16]}… signed something with this hash."
    if rekord.verifier_kind is VerifierKind.CERTIFICATE:
        sentence += " Who issued the certificate is for its reader to check: this log does not."
    return f"signature over {digest[:16]}…", sentence, rows
