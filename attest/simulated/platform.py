"""One simulated machine: its root and certificates, its quotes, its collateral and its sealing keys.

What lasts (root, CAs, PCK certificate, keys) depends on the seed and the epoch only, so that collateral can
be issued again later, by another process, under the same root.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from assay.attest import p256
from assay.attest.measurement import Tee
from assay.attest.quote import sgx, tdx
from assay.attest.quote.collateral import Collateral
from assay.attest.quote.pck import PckCa, PckExtension, PlatformConfiguration
from assay.attest.quote.tcb import TcbStatus
from assay.attest.simulated import pcs
from assay.attest.simulated.certificates import (
    DAY_S,
    YEAR_S,
    Holder,
    issue_pck,
    issue_pck_ca,
    issue_root,
    issue_tcb_signer,
    revocation_list,
)
from assay.attest.simulated.keys import derived, private_key, public_point
from assay.attest.simulated.pcs import FMSPC, PCE_ID, IsvLevel, Period, TcbLevel, TdxModule

CPU_SVN = bytes.fromhex("07090303ffff01000000000000000000")
HARDENING_CPU_SVN = bytes.fromhex("06080303ffff01000000000000000000")
PCE_SVN = 13

QE_MR_SIGNER = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
"""MRSIGNER of Intel's quoting enclave, which verifiers expect in the identity and in the QE's report."""
QE_ISV_PROD_ID, TD_QE_ISV_PROD_ID = 1, 2
QE_ISV_SVN = 8
QE_FLAGS = sgx.FLAG_INIT | sgx.FLAG_MODE64 | sgx.FLAG_PROVISION_KEY

ENCLAVE_FLAGS = sgx.FLAG_INIT | sgx.FLAG_MODE64
XFRM = 0xE7
"""x87, SSE, AVX and AVX-512 state."""

TEE_TCB_SVN = bytes.fromhex("05010200000000000000000000000000")
"""TDX module SVN 5 of version 1."""
TD_ATTRIBUTES = tdx.SEC_SEPT_VE_DISABLE
XFAM = bytes.fromhex("e718060000000000")

SEAL_KEY_SIZE = 16
COLLATERAL_LIFETIME_S = 30 * DAY_S
ROOT_CRL_LIFETIME_S = YEAR_S

_QE_PROD_IDS = {Tee.SGX: QE_ISV_PROD_ID, Tee.TDX: TD_QE_ISV_PROD_ID}
_SEAL_TAG = b"assay-simulated-seal-mrenclave-v1"


class Signer(Enum):
    """Whose key signs a text of the provisioning service; only the first is right."""

    TCB_SIGNING = auto()
    PCK = auto()
    ROOT = auto()


@dataclass(frozen=True, slots=True)
class Variant:
    """In what a platform differs from a healthy one: states to demonstrate, and attacks for tests.

    Attributes:
        ca: the CA that issued the PCK certificate.
        cpu_svn: 16 component SVNs; they decide the TCB level.
        pce_svn: the PCE's SVN.
        pck_revoked: the PCK certificate is on the CA's list.
        ca_revoked: the CA is on the root's list.
        tcb_levels: instead of the three usual levels.
        tcb_info_signer: who signs TCB info.
        qe_identity_signer: who signs the QE identity.
        qe_mr_signer: of the quoting enclave; the identity names the same.
        qe_isv_prod_id: of the quoting enclave, instead of 1 for SGX and 2 for TDX; the identity keeps these.
        qe_isv_svn: of the quoting enclave; the levels keep 8 and 6.
        qe_flags: of the quoting enclave.
        qe_auth_data: instead of 32 derived bytes.
        tee_tcb_svn: of the TDX module and its loader.
        mr_signer_seam: of the TDX module; the TCB info keeps zeros.
        evaluation_number: of TCB info and QE identity.
    """

    ca: PckCa = PckCa.PLATFORM
    cpu_svn: bytes = CPU_SVN
    pce_svn: int = PCE_SVN
    pck_revoked: bool = False
    ca_revoked: bool = False
    tcb_levels: tuple[TcbLevel, ...] | None = None
    tcb_info_signer: Signer = Signer.TCB_SIGNING
    qe_identity_signer: Signer = Signer.TCB_SIGNING
    qe_mr_signer: bytes = QE_MR_SIGNER
    qe_isv_prod_id: int | None = None
    qe_isv_svn: int = QE_ISV_SVN
    qe_flags: int = QE_FLAGS
    qe_auth_data: bytes | None = None
    tee_tcb_svn: bytes = TEE_TCB_SVN
    mr_signer_seam: bytes = bytes(48)
    evaluation_number: int = pcs.EVALUATION_NUMBER


HEALTHY = Variant()
SW_HARDENING_NEEDED = Variant(cpu_svn=HARDENING_CPU_SVN)
OUT_OF_DATE = Variant(cpu_svn=bytes(16))


class SimulatedPlatform:
    """A machine whose hardware is a seed.

    Args:
        seed: 32 bytes; whoever knows them can forge this platform's evidence.
        epoch_s: Unix seconds around which the certificates are valid: the PCK certificate from 30 days
            before it for 7 years. It belongs to the identity: another epoch gives another root.
        variant: how it differs from a healthy platform.

    Raises:
        MalformedError: a seed of another size.
    """

    def __init__(self, seed: bytes, *, epoch_s: int, variant: Variant = HEALTHY) -> None:
        self._seed = seed
        self._epoch_s = epoch_s
        self._variant = variant
        self._attestation_key = private_key(seed, "attestation key")
        self.root = issue_root(seed, epoch_s=epoch_s)
        self.ca = issue_pck_ca(seed, ca=variant.ca, root=self.root, epoch_s=epoch_s)
        self.tcb_signer = issue_tcb_signer(seed, root=self.root, epoch_s=epoch_s)
        self.pck = issue_pck(seed, extension=self._pck_extension(), ca=self.ca, epoch_s=epoch_s)

    @property
    def root_der(self) -> bytes:
        """The root certificate: what a verifier must be told to trust."""
        return self.root.der

    @property
    def fmspc(self) -> bytes:
        """6 bytes, the same for every simulated platform."""
        return FMSPC

    @property
    def pck_chain_pem(self) -> str:
        """PCK certificate, its CA and the root."""
        return self.pck.pem + self.ca.pem + self.root.pem

    def report(
        self,
        *,
        mr_enclave: bytes,
        mr_signer: bytes,
        isv_prod_id: int,
        isv_svn: int,
        report_data: bytes,
        debug: bool = False,
    ) -> sgx.ReportBody:
        """What this machine's CPU would report of an enclave.

        Raises:
            MalformedError: a field of another size.
        """
        return sgx.ReportBody(
            cpu_svn=self._variant.cpu_svn,
            misc_select=0,
            reserved1=bytes(28),
            flags=ENCLAVE_FLAGS | (sgx.FLAG_DEBUG if debug else 0),
            xfrm=XFRM,
            mr_enclave=mr_enclave,
            reserved2=bytes(32),
            mr_signer=mr_signer,
            reserved3=bytes(96),
            isv_prod_id=isv_prod_id,
            isv_svn=isv_svn,
            reserved4=bytes(60),
            report_data=report_data,
        )

    def quote(self, report: sgx.ReportBody) -> bytes:
        """The quoting enclave's quote of a report; the same report always gives the same bytes."""
        header = sgx.QuoteHeader(
            version=sgx.VERSION,
            attestation_key_type=sgx.ECDSA_P256,
            tee_type=sgx.TEE_TYPE_SGX,
            qe_svn=self._variant.qe_isv_svn,
            pce_svn=self._variant.pce_svn,
            qe_vendor_id=sgx.INTEL_QE_VENDOR_ID,
            user_data=derived(self._seed, "qe id", size=16) + bytes(4),
        )
        signed = sgx.format_header(header) + sgx.format_report(report)
        return sgx.format_quote(sgx.QuoteV3(header, report, self._signature(signed, Tee.SGX)))

    def td_report(
        self,
        *,
        mr_td: bytes,
        report_data: bytes,
        rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes(48),) * 4,
        attributes: int = TD_ATTRIBUTES,
    ) -> tdx.TdReport:
        """What this machine's TDX module would report of a trust domain.

        Raises:
            MalformedError: a field of another size.
        """
        return tdx.TdReport(
            tee_tcb_svn=self._variant.tee_tcb_svn,
            mr_seam=derived(self._seed, "tdx module") + bytes(16),
            mr_signer_seam=self._variant.mr_signer_seam,
            seam_attributes=bytes(8),
            attributes=attributes,
            xfam=XFAM,
            mr_td=mr_td,
            mr_config_id=bytes(48),
            mr_owner=bytes(48),
            mr_owner_config=bytes(48),
            rtmr0=rtmrs[0],
            rtmr1=rtmrs[1],
            rtmr2=rtmrs[2],
            rtmr3=rtmrs[3],
            report_data=report_data,
        )

    def td_quote(self, body: tdx.TdBody) -> bytes:
        """The TD quoting enclave's quote: version 4 of a plain report, version 5 of a newer one."""
        header = sgx.QuoteHeader(
            version=tdx.VERSION_4 if body.td15 is None else tdx.VERSION_5,
            attestation_key_type=sgx.ECDSA_P256,
            tee_type=tdx.TEE_TYPE_TDX,
            qe_svn=0,
            pce_svn=0,
            qe_vendor_id=sgx.INTEL_QE_VENDOR_ID,
            user_data=derived(self._seed, "qe id", size=16) + bytes(4),
        )
        signed = tdx.signed_bytes(header, body)
        return tdx.format_quote(tdx.TdQuote(header, body, self._signature(signed, Tee.TDX)))

    def collateral(self, *, issued_s: int, tee: Tee = Tee.SGX) -> Collateral:
        """Collateral for one TEE, issued at that time: for 30 days, the root's CRL for a year."""
        variant = self._variant
        period = Period(issued_s, issued_s + COLLATERAL_LIFETIME_S)
        info = self.tcb_info(period=period, tee=tee)
        identity = self.qe_identity(period=period, tee=tee)
        return Collateral(
            pck_crl_issuer_chain=self.ca.pem + self.root.pem,
            root_ca_crl=revocation_list(
                self.root,
                [self.ca] if variant.ca_revoked else [],
                issued_s=issued_s,
                expires_s=issued_s + ROOT_CRL_LIFETIME_S,
            ),
            pck_crl=revocation_list(
                self.ca,
                [self.pck] if variant.pck_revoked else [],
                issued_s=issued_s,
                expires_s=period.expires_s,
            ),
            tcb_info_issuer_chain=self._issuer_chain(variant.tcb_info_signer),
            tcb_info=info,
            tcb_info_signature=self.sign_text(info, signer=variant.tcb_info_signer),
            qe_identity_issuer_chain=self._issuer_chain(variant.qe_identity_signer),
            qe_identity=identity,
            qe_identity_signature=self.sign_text(identity, signer=variant.qe_identity_signer),
        )

    def tcb_info(self, *, period: Period, tee: Tee) -> str:
        """The TCB info of this machine's family, as the service would sign it."""
        variant = self._variant
        return pcs.tcb_info(
            self.tcb_levels() if variant.tcb_levels is None else variant.tcb_levels,
            period=period,
            evaluation_number=variant.evaluation_number,
            module=self.tdx_module() if tee is Tee.TDX else None,
        )

    def qe_identity(self, *, period: Period, tee: Tee) -> str:
        """The identity of the TEE's quoting enclave, as the service would sign it."""
        return pcs.qe_identity(
            self.qe_levels(),
            period=period,
            mr_signer=self._variant.qe_mr_signer,
            isv_prod_id=_QE_PROD_IDS[tee],
            evaluation_number=self._variant.evaluation_number,
            tee=tee,
        )

    def seal_key(self, mr_enclave: bytes) -> bytes:
        """The 16-byte sealing key that this machine gives to one enclave (policy MRENCLAVE), and to no other."""
        kdf = HKDF(SHA256(), length=SEAL_KEY_SIZE, salt=None, info=_SEAL_TAG + mr_enclave)
        return kdf.derive(derived(self._seed, "device secret"))

    def tcb_levels(self) -> Sequence[TcbLevel]:
        """The usual levels: this generation, one that needs software hardening, and everything older."""
        recent_s, older_s, old_s = (self._epoch_s - days * DAY_S for days in (60, 300, 900))
        hardening, older = ("INTEL-SA-00615",), ("INTEL-SA-00334", "INTEL-SA-00615")
        return (
            TcbLevel(CPU_SVN, PCE_SVN, recent_s, tdx_svn=TEE_TCB_SVN),
            TcbLevel(HARDENING_CPU_SVN, PCE_SVN, older_s, TcbStatus.SW_HARDENING_NEEDED, hardening),
            TcbLevel(bytes(16), 5, old_s, TcbStatus.OUT_OF_DATE, older),
        )

    def qe_levels(self) -> Sequence[IsvLevel]:
        """The usual levels of the quoting enclave."""
        recent_s = self._epoch_s - 60 * DAY_S
        return (
            IsvLevel(QE_ISV_SVN, recent_s),
            IsvLevel(6, recent_s, TcbStatus.OUT_OF_DATE, ("INTEL-SA-00615",)),
        )

    def tdx_module(self) -> TdxModule:
        """The usual TDX module: SVN 5 is up to date, 1 to 4 are not."""
        recent_s = self._epoch_s - 60 * DAY_S
        return TdxModule(1, (IsvLevel(5, recent_s), IsvLevel(1, recent_s, TcbStatus.OUT_OF_DATE)))

    def sign_text(self, text: str, *, signer: Signer = Signer.TCB_SIGNING) -> bytes:
        """Sign a text of the provisioning service: r ‖ s, 64 bytes."""
        return p256.sign(self._holders(signer)[0].key, text.encode())

    def _issuer_chain(self, signer: Signer) -> str:
        return "".join(holder.pem for holder in self._holders(signer))

    def _holders(self, signer: Signer) -> tuple[Holder, ...]:
        return {
            Signer.TCB_SIGNING: (self.tcb_signer, self.root),
            Signer.PCK: (self.pck, self.ca, self.root),
            Signer.ROOT: (self.root,),
        }[signer]

    def _signature(self, signed: bytes, tee: Tee) -> sgx.QuoteSignature:
        auth_data = self._variant.qe_auth_data
        if auth_data is None:
            auth_data = derived(self._seed, "qe authentication data")
        attestation_key = public_point(self._attestation_key)
        qe_report = self._qe_report(hashlib.sha256(attestation_key + auth_data).digest(), tee)
        return sgx.QuoteSignature(
            signature=p256.sign(self._attestation_key, signed),
            attestation_key=attestation_key,
            qe_report=qe_report,
            qe_signature=p256.sign(self.pck.key, sgx.format_report(qe_report)),
            qe_auth_data=auth_data,
            certification_type=sgx.PCK_CHAIN_PEM,
            certification_data=self.pck_chain_pem.encode() + b"\x00",
        )

    def _qe_report(self, binding: bytes, tee: Tee) -> sgx.ReportBody:
        prod_id = self._variant.qe_isv_prod_id
        return sgx.ReportBody(
            cpu_svn=self._variant.cpu_svn,
            misc_select=0,
            reserved1=bytes(28),
            flags=self._variant.qe_flags,
            xfrm=XFRM,
            mr_enclave=derived(self._seed, "qe mrenclave"),
            reserved2=bytes(32),
            mr_signer=self._variant.qe_mr_signer,
            reserved3=bytes(96),
            isv_prod_id=_QE_PROD_IDS[tee] if prod_id is None else prod_id,
            isv_svn=self._variant.qe_isv_svn,
            reserved4=bytes(60),
            report_data=binding + bytes(32),
        )

    def _pck_extension(self) -> PckExtension:
        scalable = self._variant.ca is PckCa.PLATFORM
        return PckExtension(
            ppid=derived(self._seed, "ppid", size=16),
            cpu_svn=self._variant.cpu_svn,
            pce_svn=self._variant.pce_svn,
            pce_id=PCE_ID,
            fmspc=FMSPC,
            sgx_type=1 if scalable else 0,
            platform_instance_id=derived(self._seed, "platform instance", size=16) if scalable else None,
            configuration=PlatformConfiguration(dynamic_platform=True, cached_keys=True, smt_enabled=True)
            if scalable
            else None,
        )
