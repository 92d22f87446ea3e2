"""AMD SEV-SNP attestation reports, versions 2 to 5: bytes to a frozen dataclass and back, without judgement.

Source of the layout: AMD publication 56860, SEV Secure Nested Paging Firmware ABI, ATTESTATION_REPORT and
TCB_VERSION; later versions name bytes that earlier ones reserve, and move none.

All integers are little-endian. The report has one size. What the signature does not cover is either the
signature itself or zero, so ``format_report(parse_report(x)) == x`` and no spare byte can carry anything.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from assay.attest.quote.layout import Layout, pack, require_fit, size_of, unpack
from assay.tlog.errors import MalformedError

REPORT_SIZE = 1184
SIGNED_SIZE = 0x2A0
"""The leading bytes that the signature covers."""

VERSIONS = (2, 3, 4, 5)
ECDSA_P384_SHA384 = 1
"""The only signature algorithm that is defined."""

POLICY_SMT = 1 << 16
POLICY_MIGRATION_AGENT = 1 << 18
POLICY_DEBUG = 1 << 19

FLAG_AUTHOR_KEY = 1 << 0
FLAG_MASK_CHIP_KEY = 1 << 1

TCB_SIZE = 8
_SIGNATURE_NUMBER_SIZE = 72
_TAIL = bytes(REPORT_SIZE - SIGNED_SIZE - 2 * _SIGNATURE_NUMBER_SIZE)
"""The 368 bytes behind s."""

_REPORT: Layout = (
    ("version", "I"),
    ("guest_svn", "I"),
    ("policy", "Q"),
    ("family_id", "16s"),
    ("image_id", "16s"),
    ("vmpl", "I"),
    ("signature_algorithm", "I"),
    ("current_tcb", "8s"),
    ("platform_info", "Q"),
    ("flags", "I"),
    ("reserved1", "4s"),
    ("report_data", "64s"),
    ("measurement", "48s"),
    ("host_data", "32s"),
    ("id_key_digest", "48s"),
    ("author_key_digest", "48s"),
    ("report_id", "32s"),
    ("report_id_migration_agent", "32s"),
    ("reported_tcb", "8s"),
    ("cpuid", "3s"),
    ("reserved2", "21s"),
    ("chip_id", "64s"),
    ("committed_tcb", "8s"),
    ("current_build", "4s"),
    ("committed_build", "4s"),
    ("launch_tcb", "8s"),
    ("launch_mitigations", "Q"),
    ("current_mitigations", "Q"),
    ("reserved3", "152s"),
    ("signature_r", "72s"),
    ("signature_s", "72s"),
)


class SnpProduct(StrEnum):
    """A processor line; it decides the root key and the layout of a TCB version. The value is AMD's word."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


class SnpSigningKey(IntEnum):
    """Which kind of key signs a report, as bits 2 to 4 of ``flags`` number them."""

    VCEK = 0
    VLEK = 1
    NONE = 7


@dataclass(frozen=True, slots=True)
class SnpTcb:
    """The security versions of the platform's parts, each 0 to 255.

    ======  ===================  ==========
    byte    Milan, Genoa         Turin
    ======  ===================  ==========
    0       bootloader           fmc
    1       tee                  bootloader
    2       reserved             tee
    3       reserved             snp
    4 to 5  reserved             reserved
    6       snp                  reserved
    7       microcode            microcode
    ======  ===================  ==========

    Attributes:
        bootloader: of the security processor.
        tee: its operating system.
        snp: the SNP firmware.
        microcode: the lowest patch level of all cores.
        fmc: the first mutable code; None where the product has none.
    """

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no byte.

        Raises:
            MalformedError: a version out of 0 to 255.
        """
        if not all(0 <= svn <= 255 for svn in self.components):
            raise MalformedError("TCB version: a component is not 0 to 255")

    @property
    def components(self) -> tuple[int, ...]:
        """The versions in a fixed order; ``fmc`` is the last, if there is one."""
        known = (self.bootloader, self.tee, self.snp, self.microcode)
        return known if self.fmc is None else (*known, self.fmc)


_TCB_POSITIONS = {
    SnpProduct.MILAN: (0, 1, 6, 7),
    SnpProduct.GENOA: (0, 1, 6, 7),
    SnpProduct.TURIN: (1, 2, 3, 7, 0),
}
"""Where the components stand, in the order of :attr:`SnpTcb.components`."""


@dataclass(frozen=True, slots=True)
class SnpReport:
    """What the SNP firmware reports of a guest; nothing in it is believed yet.

    ======  ====  ===============================================================================
    offset  size  field
    ======  ====  ===============================================================================
    0x000   4     version (2 to 5)
    0x004   4     guest_svn
    0x008   8     policy: bit 16 SMT allowed, 18 migration agent allowed, 19 debugging allowed
    0x010   16    family_id
    0x020   16    image_id
    0x030   4     vmpl: the privilege level that asked, 0 the highest
    0x034   4     signature_algorithm (1 = ECDSA on P-384 with SHA-384)
    0x038   8     current_tcb: of the firmware that runs
    0x040   8     platform_info: bit 0 SMT enabled, 1 memory encryption key per host (TSME), ...
    0x048   4     flags: bit 0 author key given, 1 chip key masked, 2 to 4 signing key (0 VCEK,
                  1 VLEK, 7 none)
    0x04C   4     reserved1
    0x050   64    report_data: what the guest gave
    0x090   48    measurement: SHA-384 of what was launched
    0x0C0   32    host_data: what the hypervisor gave at launch
    0x0E0   48    id_key_digest
    0x110   48    author_key_digest
    0x140   32    report_id
    0x160   32    report_id_migration_agent
    0x180   8     reported_tcb: what the signing key was derived for
    0x188   3     cpuid: family, model, stepping; zero in version 2
    0x18B   21    reserved2
    0x1A0   64    chip_id: a lasting id of the machine; publish only its hash
    0x1E0   8     committed_tcb: below which the firmware cannot be rolled back
    0x1E8   4     current_build: build, minor, major, reserved
    0x1EC   4     committed_build: build, minor, major, reserved
    0x1F0   8     launch_tcb: current_tcb when the guest was launched
    0x1F8   8     launch_mitigations: from version 5
    0x200   8     current_mitigations: from version 5
    0x208   152   reserved3
    0x2A0   72    signature_r, little-endian
    0x2E8   72    signature_s, little-endian
    0x330   368   zero
    ======  ====  ===============================================================================

    The TCB versions are bytes here: what they mean depends on the product, which the certificates tell
    (:func:`parse_tcb`).
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    current_tcb: bytes
    platform_info: int
    flags: int
    reserved1: bytes
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_migration_agent: bytes
    reported_tcb: bytes
    cpuid: bytes
    reserved2: bytes
    chip_id: bytes
    committed_tcb: bytes
    current_build: bytes
    committed_build: bytes
    launch_tcb: bytes
    launch_mitigations: int
    current_mitigations: int
    reserved3: bytes
    signature_r: bytes
    signature_s: bytes

    def __post_init__(self) -> None:
        """Refuse values that do not fit their bytes, and reports of another kind.

        Raises:
            MalformedError: a field of another size, or another version or signature algorithm (code
                ``unsupported``).
        """
        require_fit(_REPORT, self)
        if self.version not in VERSIONS or self.signature_algorithm != ECDSA_P384_SHA384:
            raise MalformedError(
                f"SNP report: version {self.version}, signature algorithm {self.signature_algorithm}",
                code="unsupported",
            )

    @property
    def debug(self) -> bool:
        """Whether the hypervisor may read and write the guest's memory."""
        return bool(self.policy & POLICY_DEBUG)

    @property
    def migration_agent(self) -> bool:
        """Whether the guest may be handed to a migration agent."""
        return bool(self.policy & POLICY_MIGRATION_AGENT)

    @property
    def chip_key_masked(self) -> bool:
        """Whether the host hides which chip this is."""
        return bool(self.flags & FLAG_MASK_CHIP_KEY)

    @property
    def signing_key(self) -> int:
        """The number of the signing key's kind: one of :class:`SnpSigningKey`, or a reserved one."""
        return self.flags >> 2 & 7

    @property
    def signed_bytes(self) -> bytes:
        """The first 672 bytes: what the signature covers."""
        return pack(_REPORT, self)[:SIGNED_SIZE]

    @property
    def evidence_id(self) -> str:
        """Hex SHA-256 of the signed bytes. Never of the whole report: ECDSA's s has a twin."""
        return hashlib.sha256(self.signed_bytes).hexdigest()


def parse_report(data: bytes) -> SnpReport:
    """Read a report.

    Raises:
        MalformedError: codes ``bad-length`` (not 1184 bytes), ``unsupported`` (another version or signature
            algorithm), ``malleable`` (the bytes behind the signature are not zero: no signature covers them).
    """
    if len(data) != REPORT_SIZE:
        raise MalformedError(f"SNP report: {len(data)} bytes, not {REPORT_SIZE}", code="bad-length")
    size = size_of(_REPORT)
    report = SnpReport(*unpack(_REPORT, data[:size], what="SNP report"))  # type: ignore[arg-type]  # as the layout says
    if data[size:] != _TAIL:
        raise MalformedError("SNP report: bytes behind the signature are not zero", code="malleable")
    return report


def format_report(report: SnpReport) -> bytes:
    """The 1184 bytes of a report; the inverse of :func:`parse_report`."""
    return pack(_REPORT, report) + _TAIL


def parse_tcb(data: bytes, *, product: SnpProduct) -> SnpTcb:
    """Read a TCB version as this product lays it out.

    Raises:
        MalformedError: not 8 bytes, or a reserved byte that is not zero (code ``unsupported``: a component
            that is not known here).
    """
    if len(data) != TCB_SIZE:
        raise MalformedError(f"TCB version: {len(data)} bytes, not {TCB_SIZE}")
    tcb = SnpTcb(*(data[position] for position in _TCB_POSITIONS[product]))
    if format_tcb(tcb, product=product) != data:
        raise MalformedError("TCB version: a reserved byte is not zero", code="unsupported")
    return tcb


def format_tcb(tcb: SnpTcb, *, product: SnpProduct) -> bytes:
    """The 8 bytes of a TCB version; the inverse of :func:`parse_tcb`.

    Raises:
        MalformedError: ``fmc`` given for a product without it, or missing.
    """
    positions = _TCB_POSITIONS[product]
    if len(tcb.components) != len(positions):
        raise MalformedError(f"TCB version: not of {product}")
    data = bytearray(TCB_SIZE)
    for position, svn in zip(positions, tcb.components, strict=True):
        data[position] = svn
    return bytes(data)
