"""The verdict on a SEV-SNP report: AMD's chain, the signature, and that the report is of the key's own platform.

One path of code for every root, so that simulated and real evidence are judged alike. How old a platform may
be and which privilege level may speak are a policy's decision (``snp_policy``); which measurement is the
right one, and what report_data binds, the caller checks.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from assay.attest.measurement import Measurement, Tee
from assay.attest.quote import snp
from assay.attest.quote.pinned_chain import common_period, require_signature
from assay.attest.quote.snp import SnpProduct, SnpReport, SnpSigningKey, SnpTcb, parse_tcb
from assay.attest.quote.snp_certificates import SnpChain, VerifiedSnpChain, verify_chain, verify_crl
from assay.attest.roots import Platform
from assay.attest.roots.pinned import SnpRoot
from assay.tlog.errors import UntrustedError


class Revocation(StrEnum):
    """Whether a revocation list was held against the certificates."""

    CHECKED = "checked"
    NOT_CHECKED = "not-checked"


class ChipBinding(StrEnum):
    """How the report's chip relates to the signing key's."""

    MATCHED = "matched"
    MASKED = "masked"
    """The host hides the chip id, and the report says so. The key is one chip's all the same."""
    NOT_OF_A_CHIP = "not-of-a-chip"
    """A VLEK is a cloud's key: any of its machines may have signed."""


@dataclass(frozen=True, slots=True)
class VerifiedSnpReport:
    """A report that verified under one root, at one time.

    Attributes:
        platform: whose word it is, derived from the root.
        root_name: the caller's name of the root that verified.
        product: the line of processors.
        report: never of a guest that may be debugged.
        signing_key: VCEK or VLEK.
        reported_tcb: the TCB version that the signing key was derived for.
        current_tcb: of the firmware that runs.
        committed_tcb: below which the firmware cannot be rolled back.
        launch_tcb: of the firmware that launched the guest.
        chip: how the report's chip relates to the key's.
        csp_id: the cloud whose VLEK signed; None for a VCEK.
        revocation: whether a revocation list was given; if so, it lists none of the certificates.
        valid_from_s: the latest date of issue among all that was used, in Unix seconds.
        valid_until_s: the earliest expiry among it; from that second on it no longer counts.
    """

    platform: Platform
    root_name: str
    product: SnpProduct
    report: SnpReport
    signing_key: SnpSigningKey
    reported_tcb: SnpTcb
    current_tcb: SnpTcb
    committed_tcb: SnpTcb
    launch_tcb: SnpTcb
    chip: ChipBinding
    csp_id: str | None
    revocation: Revocation
    valid_from_s: int
    valid_until_s: int

    @property
    def measurement(self) -> Measurement:
        """The launch measurement, as the hash of one TEE among others."""
        return Measurement(Tee.SNP, self.report.measurement)

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the guest put into its report."""
        return self.report.report_data

    @property
    def evidence_id(self) -> str:
        """Hex SHA-256 of the report's signed bytes."""
        return self.report.evidence_id

    @property
    def chip_id_sha256(self) -> str:
        """Hex SHA-256 of the machine's lasting id, which itself is not for publication."""
        return hashlib.sha256(self.report.chip_id).hexdigest()


def verify_snp_report(
    report: bytes, chain: SnpChain, *, root: SnpRoot, now_s: int, crl: bytes | None
) -> VerifiedSnpReport:
    """Verify a SEV-SNP report and return what it proves.

    Steps: 1. size, version, signature algorithm, and zeros behind the signature; 2. the certificates up to the
    pinned ARK; 3. the revocation list, if there is one; 4. the signature, by a leaf on P-384, over all but
    itself; 5. the kind of signing key that the report names is the leaf's; 6. the reported TCB version is the
    leaf's, part by part; 7. the chip is the leaf's; 8. no debugging.

    Args:
        report: the 1184 bytes.
        chain: leaf, intermediate and root.
        root: the only anchor.
        now_s: the time to judge at, in Unix seconds.
        crl: the ARK's revocation list as DER, or None; the result says which.

    Raises:
        MalformedError: report or certificates are in no form that is read here.
        UntrustedError: something does not verify under this root; ``code`` says what.
        StaleError: certificates or list are not valid at ``now_s``.
    """
    parsed = snp.parse_report(report)
    verified = verify_chain(chain, root=root, now_s=now_s)
    periods = [verified.period]
    if crl is not None:
        periods.append(verify_crl(crl, verified, now_s=now_s))
    _require_signed(parsed, verified)
    _require_signing_key(parsed, verified)
    reported_tcb = _require_tcb(parsed, verified, product=root.product)
    chip = _chip_binding(parsed, verified)
    if parsed.debug:
        raise UntrustedError("the guest may be debugged: it protects nothing", code="debug")
    period = common_period(periods)
    return VerifiedSnpReport(
        platform=root.platform_of(verified.ark),
        root_name=root.name,
        product=root.product,
        report=parsed,
        signing_key=verified.kind,
        reported_tcb=reported_tcb,
        current_tcb=parse_tcb(parsed.current_tcb, product=root.product),
        committed_tcb=parse_tcb(parsed.committed_tcb, product=root.product),
        launch_tcb=parse_tcb(parsed.launch_tcb, product=root.product),
        chip=chip,
        csp_id=verified.csp_id,
        revocation=Revocation.NOT_CHECKED if crl is None else Revocation.CHECKED,
        valid_from_s=period.from_s,
        valid_until_s=period.until_s,
    )


def _require_signed(report: SnpReport, chain: VerifiedSnpChain) -> None:
    require_signature(
        chain.key,
        r=int.from_bytes(report.signature_r, "little"),
        s=int.from_bytes(report.signature_s, "little"),
        message=report.signed_bytes,
    )


def _require_signing_key(report: SnpReport, chain: VerifiedSnpChain) -> None:
    if report.signing_key != chain.kind:
        raise UntrustedError(
            f"the report names the signing key {report.signing_key}, the certificate is a {chain.kind.name}",
            code="wrong-signing-key",
        )


def _require_tcb(report: SnpReport, chain: VerifiedSnpChain, *, product: SnpProduct) -> SnpTcb:
    reported = parse_tcb(report.reported_tcb, product=product)
    if reported != chain.tcb:
        raise UntrustedError(
            "the reported TCB version is not the one that the signing key was derived for",
            code="tcb-mismatch",
        )
    return reported


def _chip_binding(report: SnpReport, chain: VerifiedSnpChain) -> ChipBinding:
    if chain.hardware_id is None:
        return ChipBinding.NOT_OF_A_CHIP
    if report.chip_id.startswith(chain.hardware_id):
        return ChipBinding.MATCHED
    if report.chip_key_masked and report.chip_id == bytes(64):
        return ChipBinding.MASKED
    raise UntrustedError("the report is of another chip than its signing key", code="chip-mismatch")
