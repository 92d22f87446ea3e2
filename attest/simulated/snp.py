"""A simulated AMD processor: byte-exact SEV-SNP reports, their certificates and a revocation list.

It proves nothing about hardware, and says so in every certificate: ``SIMULATION - NOT AMD``. Its root has a
fixed key that everybody knows (``vendor_certificates``). Everything is a function of the seed and the epoch.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from assay.attest.quote import snp
from assay.attest.quote.snp import SnpProduct, SnpReport, SnpSigningKey, SnpTcb, format_tcb
from assay.attest.quote.snp_certificates import OID_PREFIX, SnpChain
from assay.attest.roots.pinned import SIMULATED_AMD_ORGANIZATION, SnpRoot
from assay.attest.simulated.certificates import DAY_S, YEAR_S
from assay.attest.simulated.keys import derived
from assay.attest.simulated.vendor_certificates import (
    Authority,
    Profile,
    RsaName,
    issue,
    p384_key,
    rsa_key,
    rsa_revocation_list,
)

TCB = {
    SnpProduct.MILAN: SnpTcb(bootloader=4, tee=0, snp=24, microcode=219),
    SnpProduct.GENOA: SnpTcb(bootloader=10, tee=0, snp=23, microcode=84),
    SnpProduct.TURIN: SnpTcb(bootloader=1, tee=1, snp=4, microcode=72, fmc=1),
}
CPUID = {SnpProduct.MILAN: "190101", SnpProduct.GENOA: "191101", SnpProduct.TURIN: "1a0201"}
POLICY = 1 << 17 | snp.POLICY_SMT
"""Bit 17 is always one."""
CSP_ID = "SIMULATION"
CRL_LIFETIME_S = YEAR_S


@dataclass(frozen=True, slots=True)
class SnpVariant:
    """In what a processor differs from a healthy Milan with a VCEK.

    Attributes:
        product: the line.
        signing_key: VCEK or VLEK.
        tcb: that it reports; None: the product's usual one.
        key_tcb: that its key was derived for; None: the reported one.
        chip_masked: the host hides the chip id.
        foreign_chip: the certificate is of another chip.
    """

    product: SnpProduct = SnpProduct.MILAN
    signing_key: SnpSigningKey = SnpSigningKey.VCEK
    tcb: SnpTcb | None = None
    key_tcb: SnpTcb | None = None
    chip_masked: bool = False
    foreign_chip: bool = False


HEALTHY = SnpVariant()


class SimulatedSnp:
    """A processor whose hardware is a seed.

    Args:
        seed: 32 bytes.
        epoch_s: Unix seconds around which the certificates are valid: the leaf from 30 days before it for 7
            years, the others from 2 years before it for 25.
        variant: how it differs from a healthy one.

    Raises:
        MalformedError: a seed of another size, or a TCB version of another product.
    """

    def __init__(self, seed: bytes, *, epoch_s: int, variant: SnpVariant = HEALTHY) -> None:
        self._variant = variant
        self._epoch_s = epoch_s
        self._key = p384_key(seed, "endorsement key")
        self.tcb = variant.tcb or TCB[variant.product]
        size = 8 if variant.product is SnpProduct.TURIN else 64
        self.hardware_id = (derived(seed, "chip id 0") + derived(seed, "chip id 1"))[:size]
        self._foreign_id = (derived(seed, "foreign id 0") + derived(seed, "foreign id 1"))[:size]
        self.ark = self._ca(f"ARK-{variant.product}", RsaName.ARK, issuer=None)
        line = "VLEK-" if variant.signing_key is SnpSigningKey.VLEK else ""
        self.intermediate = self._ca(f"SEV-{line}{variant.product}", RsaName.ASK, issuer=self.ark)
        self.leaf = issue(self._leaf_profile(), self._key, issuer=self.intermediate)

    @property
    def root(self) -> SnpRoot:
        """What a verifier must be told to trust."""
        return SnpRoot("simulated-snp", self.ark.spki_sha256, self._variant.product)

    @property
    def chain(self) -> SnpChain:
        """Leaf, intermediate and root."""
        return SnpChain(self.leaf.der, self.intermediate.der, self.ark.der)

    @property
    def chain_pem(self) -> str:
        """The same as PEM."""
        return self.leaf.pem + self.intermediate.pem + self.ark.pem

    def report(
        self,
        *,
        measurement: bytes,
        report_data: bytes,
        version: int = 3,
        vmpl: int = 0,
        policy: int = POLICY,
        guest_svn: int = 0,
        host_data: bytes = bytes(32),
    ) -> SnpReport:
        """What this processor would report of a guest, not yet signed.

        Raises:
            MalformedError: a field of another size, or another version.
        """
        variant = self._variant
        tcb = format_tcb(self.tcb, product=variant.product)
        masked = snp.FLAG_MASK_CHIP_KEY if variant.chip_masked else 0
        chip_id = b"" if variant.chip_masked else self.hardware_id
        return SnpReport(
            version=version,
            guest_svn=guest_svn,
            policy=policy,
            family_id=bytes(16),
            image_id=bytes(16),
            vmpl=vmpl,
            signature_algorithm=snp.ECDSA_P384_SHA384,
            current_tcb=tcb,
            platform_info=1,
            flags=masked | variant.signing_key << 2,
            reserved1=bytes(4),
            report_data=report_data,
            measurement=measurement,
            host_data=host_data,
            id_key_digest=bytes(48),
            author_key_digest=bytes(48),
            report_id=bytes(32),
            report_id_migration_agent=b"\xff" * 32,
            reported_tcb=tcb,
            cpuid=bytes.fromhex(CPUID[variant.product]) if version > 2 else bytes(3),
            reserved2=bytes(21),
            chip_id=chip_id.ljust(64, b"\0"),
            committed_tcb=tcb,
            current_build=bytes.fromhex("28370100"),
            committed_build=bytes.fromhex("28370100"),
            launch_tcb=tcb,
            launch_mitigations=0,
            current_mitigations=0,
            reserved3=bytes(152),
            signature_r=bytes(72),
            signature_s=bytes(72),
        )

    def sign(self, report: SnpReport) -> bytes:
        """The 1184 bytes of a report, signed; the same report always gives the same bytes."""
        algorithm = ec.ECDSA(SHA384(), deterministic_signing=True)
        r, s = decode_dss_signature(self._key.sign(report.signed_bytes, algorithm))
        return report.signed_bytes + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)

    def revocation_list(self, *revoked: Authority, issued_s: int) -> bytes:
        """The root's CRL in DER that lists these certificates, for a year."""
        return rsa_revocation_list(self.ark, revoked, issued_s=issued_s, expires_s=issued_s + CRL_LIFETIME_S)

    def _ca(self, common_name: str, key: RsaName, *, issuer: Authority | None) -> Authority:
        profile = Profile(
            common_name,
            SIMULATED_AMD_ORGANIZATION,
            self._epoch_s - 2 * YEAR_S,
            self._epoch_s + 23 * YEAR_S,
            is_ca=True,
        )
        return issue(profile, rsa_key(key), issuer=issuer)

    def _leaf_profile(self) -> Profile:
        variant = self._variant
        tcb = variant.key_tcb or self.tcb
        svns = {"3.1": tcb.bootloader, "3.2": tcb.tee, "3.3": tcb.snp, "3.8": tcb.microcode}
        if tcb.fmc is not None:
            svns["3.9"] = tcb.fmc
        values = {arc: _integer(svn) for arc, svn in svns.items()}
        if variant.signing_key is SnpSigningKey.VLEK:
            values["5"] = bytes((0x16, len(CSP_ID))) + CSP_ID.encode()
        else:
            values["4"] = self._foreign_id if variant.foreign_chip else self.hardware_id
        return Profile(
            f"SEV-{variant.signing_key.name}",
            SIMULATED_AMD_ORGANIZATION,
            self._epoch_s - 30 * DAY_S,
            self._epoch_s + 7 * YEAR_S,
            is_ca=False,
            extensions=tuple((OID_PREFIX + arc, value) for arc, value in values.items()),
        )


def _integer(svn: int) -> bytes:
    return bytes((2, 1, svn)) if svn < 0x80 else bytes((2, 2, 0, svn))
