"""SGX quotes, DCAP version 3: bytes to frozen dataclasses and back, without any judgement.

The enclave imports this module, so it needs the standard library only. Source of the layouts: Intel SGX
ECDSA Quote Library Reference (quote v3) and Intel SDM vol. 3D §38.15 (REPORT).

All integers are little-endian. Every length field must fill its container exactly: bytes behind a quote
or inside its signature data would be covered by no signature. ``format_quote(parse_quote(x)) == x``.
"""

import hashlib
import struct
from dataclasses import dataclass

from assay.attest.quote.layout import Layout, pack, require_fit, size_of, unpack, whole_block
from assay.tlog.errors import MalformedError

MIN_QUOTE_SIZE = 1020
"""A quote v3 whose authentication data and certification data are empty."""
MAX_QUOTE_SIZE = 64 * 1024
"""Real quotes have 4 to 6 KiB; the bound comes before any parsing."""

HEADER_SIZE = 48
REPORT_SIZE = 384
SIGNED_SIZE = HEADER_SIZE + REPORT_SIZE
"""Header and report body: what the attestation key signs."""

VERSION = 3
TEE_TYPE_SGX = 0
ECDSA_P256 = 2
"""The attestation key type; the only one that version 3 defines a signature layout for."""
PCK_CHAIN_PEM = 5
"""The certification data type that holds the PCK certificate chain."""
INTEL_QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

FLAG_INIT = 0x01
FLAG_DEBUG = 0x02
FLAG_MODE64 = 0x04
FLAG_PROVISION_KEY = 0x10
FLAG_EINITTOKEN_KEY = 0x20
FLAG_KSS = 0x80

_HEADER: Layout = (
    ("version", "H"),
    ("attestation_key_type", "H"),
    ("tee_type", "I"),
    ("qe_svn", "H"),
    ("pce_svn", "H"),
    ("qe_vendor_id", "16s"),
    ("user_data", "20s"),
)
_REPORT: Layout = (
    ("cpu_svn", "16s"),
    ("misc_select", "I"),
    ("reserved1", "28s"),
    ("flags", "Q"),
    ("xfrm", "Q"),
    ("mr_enclave", "32s"),
    ("reserved2", "32s"),
    ("mr_signer", "32s"),
    ("reserved3", "96s"),
    ("isv_prod_id", "H"),
    ("isv_svn", "H"),
    ("reserved4", "60s"),
    ("report_data", "64s"),
)
_SIGNATURE_HEAD: Layout = (("signature", "64s"), ("attestation_key", "64s"))
SIGNATURE_HEAD_SIZE = size_of(_SIGNATURE_HEAD)
_QE_HEAD: Layout = (("qe_report", "384s"), ("qe_signature", "64s"))


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """The first 48 bytes of a quote.

    ======  ====  ======================================================
    offset  size  field
    ======  ====  ======================================================
    0       2     version (3)
    2       2     attestation_key_type (2 = ECDSA on P-256)
    4       4     tee_type (0 = SGX)
    8       2     qe_svn
    10      2     pce_svn
    12      16    qe_vendor_id
    28      20    user_data: id of the quoting enclave (16), zeros (4)
    ======  ====  ======================================================
    """

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes

    def __post_init__(self) -> None:
        """Refuse values that do not fit their bytes (struct would pad or cut them silently).

        Raises:
            MalformedError: a field of another size.
        """
        require_fit(_HEADER, self)


@dataclass(frozen=True, slots=True)
class ReportBody:
    """What the CPU reports of an enclave: 384 bytes, at offset 48 of a quote.

    ======  ====  ======================================================================
    offset  size  field
    ======  ====  ======================================================================
    0       16    cpu_svn
    16      4     misc_select
    20      28    reserved1 (with KSS: ISVEXTPRODID in its last 16 bytes)
    48      8     flags: 0x1 INIT, 0x2 DEBUG, 0x4 MODE64, 0x10 PROVISION_KEY,
                  0x20 EINITTOKEN_KEY, 0x80 KSS
    56      8     xfrm
    64      32    mr_enclave
    96      32    reserved2
    128     32    mr_signer
    160     96    reserved3 (with KSS: CONFIGID in its last 64 bytes)
    256     2     isv_prod_id
    258     2     isv_svn
    260     60    reserved4 (with KSS: CONFIGSVN, ISVFAMILYID)
    320     64    report_data
    ======  ====  ======================================================================
    """

    cpu_svn: bytes
    misc_select: int
    reserved1: bytes
    flags: int
    xfrm: int
    mr_enclave: bytes
    reserved2: bytes
    mr_signer: bytes
    reserved3: bytes
    isv_prod_id: int
    isv_svn: int
    reserved4: bytes
    report_data: bytes

    def __post_init__(self) -> None:
        """Refuse values that do not fit their bytes.

        Raises:
            MalformedError: a field of another size.
        """
        require_fit(_REPORT, self)

    @property
    def attributes(self) -> bytes:
        """ATTRIBUTES as the 16 bytes that SIGSTRUCT and manifests write: flags, then xfrm."""
        return struct.pack("<QQ", self.flags, self.xfrm)

    @property
    def debug(self) -> bool:
        """Whether the enclave's memory can be read and written from outside."""
        return bool(self.flags & FLAG_DEBUG)


@dataclass(frozen=True, slots=True)
class QuoteSignature:
    """The signature data of a quote v3, from offset 436 on; every part but the first two is the QE's.

    ======  ====  ==================================================================
    offset  size  field (offsets from 436)
    ======  ====  ==================================================================
    0       64    signature over header ‖ body by the attestation key (r ‖ s)
    64      64    attestation_key: the P-256 point (x ‖ y, big-endian)
    128     384   qe_report
    512     64    qe_signature over qe_report by the PCK (r ‖ s)
    576     2     length of qe_auth_data
    578     a     qe_auth_data
    578+a   2     certification_type (5 = PCK chain as PEM)
    580+a   4     length of certification_data
    584+a   c     certification_data
    ======  ====  ==================================================================
    """

    signature: bytes
    attestation_key: bytes
    qe_report: ReportBody
    qe_signature: bytes
    qe_auth_data: bytes
    certification_type: int
    certification_data: bytes


@dataclass(frozen=True, slots=True)
class QuoteV3:
    """A parsed quote; nothing in it is believed yet.

    ======  ====  ======================================
    offset  size  field
    ======  ====  ======================================
    0       48    header
    48      384   body
    432     4     length of the signature data
    436     n     signature
    ======  ====  ======================================
    """

    header: QuoteHeader
    body: ReportBody
    signature: QuoteSignature

    @property
    def signed_bytes(self) -> bytes:
        """Header and body, 432 bytes: what the attestation key signs."""
        return format_header(self.header) + format_report(self.body)

    @property
    def evidence_id(self) -> str:
        """Hex SHA-256 of the signed bytes.

        Never of the whole quote: ECDSA's s has a twin, and text between the PEM certificates is free.
        """
        return hashlib.sha256(self.signed_bytes).hexdigest()


def parse_report(data: bytes) -> ReportBody:
    """Read a report body.

    Raises:
        MalformedError: not 384 bytes.
    """
    return ReportBody(*unpack(_REPORT, data, what="report"))  # type: ignore[arg-type]  # the layout gives the types


def format_report(report: ReportBody) -> bytes:
    """The 384 bytes of a report body; the inverse of :func:`parse_report`."""
    return pack(_REPORT, report)


def format_header(header: QuoteHeader) -> bytes:
    """The 48 bytes of a quote's header."""
    return pack(_HEADER, header)


def parse_header(data: bytes) -> QuoteHeader:
    """Read a quote's header.

    Raises:
        MalformedError: not 48 bytes.
    """
    return QuoteHeader(*unpack(_HEADER, data, what="quote header"))  # type: ignore[arg-type]  # as above


def parse_quote(data: bytes) -> QuoteV3:
    """Read an SGX quote of version 3 that fills ``data`` exactly.

    Steps: 1. the total length, 2. version, TEE and key type, 3. every nested length.

    Raises:
        MalformedError: codes ``bad-length`` (the total is out of bounds), ``unsupported`` (another version,
            TEE or attestation key type), ``length-mismatch`` (a container is not filled exactly).
    """
    if not MIN_QUOTE_SIZE <= len(data) <= MAX_QUOTE_SIZE:
        raise MalformedError(
            f"quote: {len(data)} bytes, not {MIN_QUOTE_SIZE} to {MAX_QUOTE_SIZE}", code="bad-length"
        )
    header = parse_header(data[:HEADER_SIZE])
    kind = (header.version, header.tee_type, header.attestation_key_type)
    if kind != (VERSION, TEE_TYPE_SGX, ECDSA_P256):
        raise MalformedError(
            f"quote: version {kind[0]}, TEE type {kind[1]:#x}, key type {kind[2]} is not SGX v3 with P-256",
            code="unsupported",
        )
    body = parse_report(data[HEADER_SIZE:SIGNED_SIZE])
    block = whole_block(data, SIGNED_SIZE, "signature data")
    return QuoteV3(header, body, parse_qe_part(block[:SIGNATURE_HEAD_SIZE], block[SIGNATURE_HEAD_SIZE:]))


def format_quote(quote: QuoteV3) -> bytes:
    """The bytes of a quote; the inverse of :func:`parse_quote`."""
    parts = quote.signature
    signature = format_signature_head(parts) + format_qe_part(parts)
    return quote.signed_bytes + struct.pack("<I", len(signature)) + signature


def parse_qe_part(head: bytes, data: bytes) -> QuoteSignature:
    """Read what the quoting enclave adds, which is an SGX enclave for every TEE: the bytes from 128 on.

    Args:
        head: the signature and the attestation key before it, 128 bytes.
        data: the rest, filled exactly.

    Raises:
        MalformedError: a length that overruns or does not end where ``data`` does (code ``length-mismatch``).
    """
    fixed = size_of(_QE_HEAD)
    if len(head) != SIGNATURE_HEAD_SIZE or len(data) < fixed + 2:
        raise MalformedError("quote: the signature data are too short", code="length-mismatch")
    signature, attestation_key = head[:64], head[64:]
    (auth_size,) = struct.unpack_from("<H", data, fixed)
    certification = fixed + 2 + auth_size
    if certification + 6 > len(data):
        raise MalformedError("quote: the QE's authentication data overruns", code="length-mismatch")
    (certification_type,) = struct.unpack_from("<H", data, certification)
    return QuoteSignature(
        signature=signature,
        attestation_key=attestation_key,
        qe_report=parse_report(data[:REPORT_SIZE]),
        qe_signature=data[REPORT_SIZE:fixed],
        qe_auth_data=data[fixed + 2 : certification],
        certification_type=certification_type,
        certification_data=whole_block(data, certification + 2, "certification data"),
    )


def format_signature_head(parts: QuoteSignature) -> bytes:
    """The signature and the attestation key, 128 bytes."""
    return pack(_SIGNATURE_HEAD, parts)


def format_qe_part(parts: QuoteSignature) -> bytes:
    """What the quoting enclave adds; the inverse of :func:`parse_qe_part`."""
    return b"".join(
        (
            format_report(parts.qe_report),
            parts.qe_signature,
            struct.pack("<H", len(parts.qe_auth_data)),
            parts.qe_auth_data,
            struct.pack("<HI", parts.certification_type, len(parts.certification_data)),
            parts.certification_data,
        )
    )
