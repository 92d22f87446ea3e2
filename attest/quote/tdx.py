"""TDX quotes, DCAP versions 4 and 5: bytes to frozen dataclasses and back, without any judgement.

Source of the layouts: Intel TDX DCAP Quoting Library API (quote v4), sgx_quote_5.h (quote v5 and its body
types) and the Intel TDX Module ABI specification (TDREPORT). What signs a TDX quote is an SGX enclave, so
everything below the attestation key has SGX's layout (``sgx``).

All integers are little-endian; every length fills its container exactly. ``format_quote(parse_quote(x)) == x``.
"""

import hashlib
import struct
from dataclasses import dataclass

from assay.attest.quote import sgx
from assay.attest.quote.layout import Layout, pack, require_fit, size_of, unpack, whole_block
from assay.attest.quote.sgx import ECDSA_P256, HEADER_SIZE, MAX_QUOTE_SIZE, QuoteHeader, QuoteSignature
from assay.tlog.errors import MalformedError

TEE_TYPE_TDX = 0x81
VERSION_4, VERSION_5 = 4, 5
QE_CERTIFICATION = 6
"""The certification data type that holds the quoting enclave's part."""

TUD_DEBUG = 1 << 0
TUD_BITS = 0xFF
"""Bits 0 to 7: any of them lets somebody outside look into the TD."""
SEC_SEPT_VE_DISABLE = 1 << 28
SEC_MIGRATABLE = 1 << 29

_TD10: Layout = (
    ("tee_tcb_svn", "16s"),
    ("mr_seam", "48s"),
    ("mr_signer_seam", "48s"),
    ("seam_attributes", "8s"),
    ("attributes", "Q"),
    ("xfam", "8s"),
    ("mr_td", "48s"),
    ("mr_config_id", "48s"),
    ("mr_owner", "48s"),
    ("mr_owner_config", "48s"),
    ("rtmr0", "48s"),
    ("rtmr1", "48s"),
    ("rtmr2", "48s"),
    ("rtmr3", "48s"),
    ("report_data", "64s"),
)
_TD15: Layout = (("tee_tcb_svn2", "16s"), ("mr_service_td", "48s"))
_TD15_EX: Layout = (
    ("vm_id", "B"),
    ("td_id", "32s"),
    ("device_info", "48s"),
    ("initial_service_td_hash", "48s"),
    ("initial_service_td_attributes", "8s"),
    ("initial_cpu_svn", "16s"),
    ("initial_tee_tcb_svn", "16s"),
    ("initial_tee_fmspc", "12s"),
    ("current_service_td_hash", "48s"),
    ("current_service_td_attributes", "8s"),
)
TD10_SIZE = size_of(_TD10)
_TD15_SIZE = size_of(_TD15)
MIN_QUOTE_SIZE = HEADER_SIZE + TD10_SIZE + 4 + 134 + 456
"""A quote v4 whose authentication data and certification data are empty."""


@dataclass(frozen=True, slots=True)
class TdReport:
    """What the TDX module reports of a trust domain (TD 1.0): 584 bytes.

    ======  ====  =================================================================
    offset  size  field
    ======  ====  =================================================================
    0       16    tee_tcb_svn: byte 0 module SVN, byte 1 module version
    16      48    mr_seam: the TDX module's measurement
    64      48    mr_signer_seam: zero for Intel's
    112     8     seam_attributes
    120     8     attributes: bit 0 DEBUG, 28 SEPT_VE_DISABLE, 29 MIGRATABLE
    128     8     xfam
    136     48    mr_td: the initial image's measurement
    184     48    mr_config_id
    232     48    mr_owner
    280     48    mr_owner_config
    328     192   rtmr0 to rtmr3, 48 each: what the TD measured of itself
    520     64    report_data
    ======  ====  =================================================================
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    attributes: int
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes

    def __post_init__(self) -> None:
        """Refuse values that do not fit their bytes.

        Raises:
            MalformedError: a field of another size.
        """
        require_fit(_TD10, self)

    @property
    def debug(self) -> bool:
        """Whether the TD's memory can be read and written from outside."""
        return bool(self.attributes & TUD_DEBUG)


@dataclass(frozen=True, slots=True)
class Td15:
    """What TD 1.5 adds: 64 bytes at offset 584.

    ======  ====  =======================================================
    offset  size  field
    ======  ====  =======================================================
    0       16    tee_tcb_svn2: of the TDX module that runs now
    16      48    mr_service_td: of a migration or other service TD; zero
                  if there is none
    ======  ====  =======================================================
    """

    tee_tcb_svn2: bytes
    mr_service_td: bytes

    def __post_init__(self) -> None:
        """Refuse values that do not fit their bytes.

        Raises:
            MalformedError: a field of another size.
        """
        require_fit(_TD15, self)


@dataclass(frozen=True, slots=True)
class Td15Ex:
    """What the extended TD 1.5 report adds: 237 bytes at offset 648.

    ======  ====  =============================
    offset  size  field
    ======  ====  =============================
    0       1     vm_id
    1       32    td_id
    33      48    device_info
    81      48    initial_service_td_hash
    129     8     initial_service_td_attributes
    137     16    initial_cpu_svn
    153     16    initial_tee_tcb_svn
    169     12    initial_tee_fmspc
    181     48    current_service_td_hash
    229     8     current_service_td_attributes
    ======  ====  =============================
    """

    vm_id: int
    td_id: bytes
    device_info: bytes
    initial_service_td_hash: bytes
    initial_service_td_attributes: bytes
    initial_cpu_svn: bytes
    initial_tee_tcb_svn: bytes
    initial_tee_fmspc: bytes
    current_service_td_hash: bytes
    current_service_td_attributes: bytes

    def __post_init__(self) -> None:
        """Refuse values that do not fit their bytes.

        Raises:
            MalformedError: a field of another size.
        """
        require_fit(_TD15_EX, self)


@dataclass(frozen=True, slots=True)
class TdBody:
    """A quote's body: the report and, in version 5, what newer modules add to it.

    =========  =====================  =====
    body type  parts                  bytes
    =========  =====================  =====
    2          report                 584
    3          report, td15           648
    4          report, td15, td15_ex  885
    =========  =====================  =====
    """

    report: TdReport
    td15: Td15 | None = None
    td15_ex: Td15Ex | None = None

    def __post_init__(self) -> None:
        """Refuse the extended part without the one before it.

        Raises:
            MalformedError: such a body.
        """
        if self.td15_ex is not None and self.td15 is None:
            raise MalformedError("TD body: an extended part without the part of TD 1.5")

    @property
    def body_type(self) -> int:
        """How version 5 names these parts."""
        return 2 + (self.td15 is not None) + (self.td15_ex is not None)


BODY_SIZES = {2: TD10_SIZE, 3: TD10_SIZE + _TD15_SIZE, 4: TD10_SIZE + _TD15_SIZE + size_of(_TD15_EX)}


@dataclass(frozen=True, slots=True)
class TdQuote:
    """A parsed quote; nothing in it is believed yet.

    ======  ====  ===================================================================
    offset  size  field
    ======  ====  ===================================================================
    0       48    header: version 4 or 5, tee_type 0x81; qe_svn and pce_svn are zero
    48      2     version 5 only: body type
    50      4     version 5 only: length of the body
    48, 54  b     body; in version 4 always of type 2
    …       4     length of the signature data
    …       64    signature over all before its length, by the attestation key (r ‖ s)
    …       64    attestation_key: the P-256 point (x ‖ y, big-endian)
    …       2     6: the quoting enclave's part follows
    …       4     its length
    …       n     qe_report and all behind it, as in SGX (``sgx.QuoteSignature``)
    ======  ====  ===================================================================
    """

    header: QuoteHeader
    body: TdBody
    signature: QuoteSignature

    @property
    def signed_bytes(self) -> bytes:
        """Header, body type and length, body: what the attestation key signs. 632 bytes in version 4."""
        return signed_bytes(self.header, self.body)

    @property
    def evidence_id(self) -> str:
        """Hex SHA-256 of the signed bytes, never of the whole quote (see ``sgx.QuoteV3.evidence_id``)."""
        return hashlib.sha256(self.signed_bytes).hexdigest()


def parse_body(data: bytes) -> TdBody:
    """Read a body of any of the three sizes.

    Raises:
        MalformedError: another size (code ``length-mismatch``).
    """
    if len(data) not in BODY_SIZES.values():
        raise MalformedError(f"TD body: {len(data)} bytes", code="length-mismatch")
    td15 = data[TD10_SIZE : TD10_SIZE + _TD15_SIZE]
    extended = data[TD10_SIZE + _TD15_SIZE :]
    # The layouts give the types.
    return TdBody(
        TdReport(*unpack(_TD10, data[:TD10_SIZE], what="TD report")),  # type: ignore[arg-type]
        Td15(*unpack(_TD15, td15, what="TD 1.5")) if td15 else None,  # type: ignore[arg-type]
        Td15Ex(*unpack(_TD15_EX, extended, what="TD 1.5ex")) if extended else None,  # type: ignore[arg-type]
    )


def format_body(body: TdBody) -> bytes:
    """The bytes of a body; the inverse of :func:`parse_body`."""
    td15 = b"" if body.td15 is None else pack(_TD15, body.td15)
    extended = b"" if body.td15_ex is None else pack(_TD15_EX, body.td15_ex)
    return pack(_TD10, body.report) + td15 + extended


def signed_bytes(header: QuoteHeader, body: TdBody) -> bytes:
    """What the attestation key signs."""
    content = format_body(body)
    described = b"" if header.version == VERSION_4 else struct.pack("<HI", body.body_type, len(content))
    return sgx.format_header(header) + described + content


def parse_quote(data: bytes) -> TdQuote:
    """Read a TDX quote of version 4 or 5 that fills ``data`` exactly.

    Steps: 1. the total length, 2. version, TEE and key type, 3. in version 5 the body's type and length,
    4. every nested length.

    Raises:
        MalformedError: codes ``bad-length`` (the total is out of bounds), ``unsupported`` (another version,
            TEE, attestation key type or body type), ``unsupported-cert-data`` (no quoting enclave's part),
            ``length-mismatch`` (a container is not filled exactly).
    """
    if not MIN_QUOTE_SIZE <= len(data) <= MAX_QUOTE_SIZE:
        raise MalformedError(
            f"quote: {len(data)} bytes, not {MIN_QUOTE_SIZE} to {MAX_QUOTE_SIZE}", code="bad-length"
        )
    header = sgx.parse_header(data[:HEADER_SIZE])
    kind = (header.version, header.tee_type, header.attestation_key_type)
    if kind not in {(VERSION_4, TEE_TYPE_TDX, ECDSA_P256), (VERSION_5, TEE_TYPE_TDX, ECDSA_P256)}:
        raise MalformedError(
            f"quote: version {kind[0]}, TEE type {kind[1]:#x}, key type {kind[2]} is not TDX v4 or v5 with P-256",
            code="unsupported",
        )
    start, end = (HEADER_SIZE, HEADER_SIZE + TD10_SIZE) if header.version == VERSION_4 else _body_bounds(data)
    body = parse_body(data[start:end])
    return TdQuote(header, body, _parse_signature(whole_block(data, end, "signature data")))


def format_quote(quote: TdQuote) -> bytes:
    """The bytes of a quote; the inverse of :func:`parse_quote`."""
    qe_part = sgx.format_qe_part(quote.signature)
    signature = sgx.format_signature_head(quote.signature) + struct.pack(
        "<HI", QE_CERTIFICATION, len(qe_part)
    )
    return quote.signed_bytes + struct.pack("<I", len(signature) + len(qe_part)) + signature + qe_part


def _body_bounds(data: bytes) -> tuple[int, int]:
    body_type, size = struct.unpack_from("<HI", data, HEADER_SIZE)
    if body_type not in BODY_SIZES:
        raise MalformedError(f"quote: a body of type {body_type}", code="unsupported")
    if size != BODY_SIZES[body_type]:
        raise MalformedError(f"quote: a body of type {body_type} and {size} bytes", code="length-mismatch")
    start = HEADER_SIZE + 6
    return start, start + size


def _parse_signature(data: bytes) -> QuoteSignature:
    head, rest = data[: sgx.SIGNATURE_HEAD_SIZE], data[sgx.SIGNATURE_HEAD_SIZE :]
    if len(rest) < 6:
        raise MalformedError("quote: the signature data are too short", code="length-mismatch")
    (certification_type,) = struct.unpack_from("<H", rest)
    if certification_type != QE_CERTIFICATION:
        raise MalformedError(
            f"quote: certification data of type {certification_type}, not the quoting enclave's part",
            code="unsupported-cert-data",
        )
    return sgx.parse_qe_part(head, whole_block(rest, 2, "the quoting enclave's part"))
