"""Evidence of an NVIDIA GPU or switch: SPDM 1.1 measurements, bytes to frozen dataclasses, without judgement.

Source: DMTF DSP0274 1.1, GET_MEASUREMENTS and MEASUREMENTS; the fields inside the opaque data are NVIDIA's.
The evidence is request and response, one behind the other, because the device's signature covers both.

All integers are little-endian. Every length fills its container exactly, and nothing follows the signature.
``format_evidence(parse_evidence(x)) == x``.
"""

import hashlib
import struct
from dataclasses import dataclass

from assay.tlog.errors import MalformedError

NONCE_SIZE = 32
SIGNATURE_SIZE = 96
"""r ‖ s, 48 bytes each, big-endian: ECDSA on P-384."""
REQUEST_SIZE = 37

MAX_EVIDENCE_SIZE = 64 * 1024
"""Real evidence has 2 to 5 KiB; the bound comes before any parsing."""
MIN_EVIDENCE_SIZE = REQUEST_SIZE + 8 + NONCE_SIZE + 2 + SIGNATURE_SIZE
"""Evidence without measurements and without opaque data."""

DMTF = 1
"""The measurement specification of every block."""

DRIVER_VERSION, VBIOS_VERSION, FIRMWARE_ID, CHIP_INFO = 3, 6, 20, 35
"""Opaque fields that are read here. Others that NVIDIA names: 1 certificate issuer, 2 authority key, 4 GPU
information, 5 SKU, 12 measurement counts, 14 board, 15 and 16 chip SKU, 17 and 18 project, 21 protected PCIe,
22 switch ports, 34 version of the opaque data, 36 features."""

_REQUEST_HEAD = bytes.fromhex("11e001ff")
"""SPDM 1.1, GET_MEASUREMENTS, with a signature, all measurements."""
_RESPONSE_HEAD = bytes.fromhex("1160")


@dataclass(frozen=True, slots=True)
class MeasurementBlock:
    """One measurement.

    ======  ====  ==========================================
    offset  size  field
    ======  ====  ==========================================
    0       1     index
    1       1     measurement specification (1 = DMTF)
    2       2     size of the rest: 3 + n
    4       1     value_type
    5       2     size of the value: n
    7       n     value
    ======  ====  ==========================================
    """

    index: int
    value_type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class OpaqueField:
    """One of NVIDIA's own fields: u16 number, u16 length, data."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class GpuEvidence:
    """Parsed evidence; nothing in it is believed yet.

    =======  ====  ===================================================================
    offset   size  field
    =======  ====  ===================================================================
    0        4     11 E0 01 FF
    4        32    nonce: the verifier's
    36       1     slot: of the certificate chain
    37       2     11 60
    39       2     parameters: of the response
    41       1     number of blocks
    42       3     length of all blocks
    45       m     blocks
    45+m     32    response_nonce: the device's
    77+m     2     length of the opaque data
    79+m     n     opaque
    79+m+n   96    signature over everything before it
    =======  ====  ===================================================================
    """

    nonce: bytes
    slot: int
    parameters: bytes
    blocks: tuple[MeasurementBlock, ...]
    response_nonce: bytes
    opaque: tuple[OpaqueField, ...]
    signature: bytes

    @property
    def signed_bytes(self) -> bytes:
        """Request and response up to the signature."""
        return format_evidence(self)[:-SIGNATURE_SIZE]

    @property
    def evidence_id(self) -> str:
        """Hex SHA-256 of the signed bytes. Never of all: ECDSA's s has a twin."""
        return hashlib.sha256(self.signed_bytes).hexdigest()

    @property
    def measurements(self) -> dict[int, bytes]:
        """The measured values by their indices."""
        return {block.index: block.value for block in self.blocks}

    def field(self, number: int) -> bytes | None:
        """The data of an opaque field, or None if the device sent none of that number."""
        return next((field.data for field in self.opaque if field.number == number), None)


def parse_evidence(data: bytes) -> GpuEvidence:
    """Read evidence that fills ``data`` exactly.

    Raises:
        MalformedError: codes ``bad-length`` (the total is out of bounds), ``unsupported`` (another message or
            measurement specification), ``length-mismatch`` (a container is not filled exactly),
            ``malformed-quote`` (another number of blocks than announced; an index or a field that occurs twice).
    """
    if not MIN_EVIDENCE_SIZE <= len(data) <= MAX_EVIDENCE_SIZE:
        raise MalformedError(
            f"GPU evidence: {len(data)} bytes, not {MIN_EVIDENCE_SIZE} to {MAX_EVIDENCE_SIZE}",
            code="bad-length",
        )
    if data[:4] != _REQUEST_HEAD or data[REQUEST_SIZE : REQUEST_SIZE + 2] != _RESPONSE_HEAD:
        raise MalformedError(
            "GPU evidence: not SPDM 1.1 GET_MEASUREMENTS and MEASUREMENTS", code="unsupported"
        )
    reader = _Reader(data, REQUEST_SIZE + 4)
    count = reader.number(1)
    blocks = _parse_blocks(reader.take(reader.number(3)), count)
    response_nonce = reader.take(NONCE_SIZE)
    opaque = _parse_opaque(reader.take(reader.number(2)))
    signature = reader.take(SIGNATURE_SIZE)
    reader.require_end()
    return GpuEvidence(
        nonce=data[4:36],
        slot=data[36],
        parameters=data[39:41],
        blocks=blocks,
        response_nonce=response_nonce,
        opaque=opaque,
        signature=signature,
    )


def format_evidence(evidence: GpuEvidence) -> bytes:
    """The bytes of evidence; the inverse of :func:`parse_evidence`."""
    blocks = b"".join(
        struct.pack("<BBHBH", block.index, DMTF, len(block.value) + 3, block.value_type, len(block.value))
        + block.value
        for block in evidence.blocks
    )
    opaque = b"".join(
        struct.pack("<HH", field.number, len(field.data)) + field.data for field in evidence.opaque
    )
    return b"".join(
        (
            _REQUEST_HEAD + evidence.nonce + bytes((evidence.slot,)),
            _RESPONSE_HEAD + evidence.parameters + bytes((len(evidence.blocks),)),
            len(blocks).to_bytes(3, "little") + blocks,
            evidence.response_nonce,
            len(opaque).to_bytes(2, "little") + opaque,
            evidence.signature,
        )
    )


def gpu_nonce(report_data: bytes, nonce: bytes) -> bytes:
    """The nonce that binds a GPU to one CPU environment: SHA-256(report_data ‖ nonce).

    The CPU's quote carries ``report_data``, hence the environment's key; the GPU's evidence for this nonce was
    then made for that key.

    Args:
        report_data: the 64 bytes of the CPU's quote or report.
        nonce: the verifier's 32 bytes.

    Raises:
        MalformedError: another size.
    """
    if len(report_data) != 64 or len(nonce) != NONCE_SIZE:
        raise MalformedError("GPU nonce: report_data has 64 bytes, a nonce 32")
    return hashlib.sha256(report_data + nonce).digest()


class _Reader:
    """Takes bytes from the front; whatever is not there is a length that does not add up."""

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self._data = data
        self._offset = offset

    @property
    def more(self) -> bool:
        return self._offset < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._offset : self._offset + size]
        if len(taken) != size:
            raise MalformedError("GPU evidence: a length overruns", code="length-mismatch")
        self._offset += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def require_end(self) -> None:
        if self.more:
            raise MalformedError("GPU evidence: bytes follow the signature", code="length-mismatch")


def _parse_blocks(record: bytes, count: int) -> tuple[MeasurementBlock, ...]:
    reader = _Reader(record)
    blocks = []
    while reader.more:
        index, specification, size = reader.number(1), reader.number(1), reader.number(2)
        if specification != DMTF:
            raise MalformedError(
                f"GPU evidence: measurement specification {specification}", code="unsupported"
            )
        value_type, value_size = reader.number(1), reader.number(2)
        if size != value_size + 3:
            raise MalformedError("GPU evidence: a block of two sizes", code="length-mismatch")
        blocks.append(MeasurementBlock(index, value_type, reader.take(value_size)))
    if len(blocks) != count or len({block.index for block in blocks}) != count:
        raise _malformed("another number of blocks than announced, or an index twice")
    return tuple(blocks)


def _parse_opaque(data: bytes) -> tuple[OpaqueField, ...]:
    reader = _Reader(data)
    fields = []
    while reader.more:
        number = reader.number(2)
        fields.append(OpaqueField(number, reader.take(reader.number(2))))
    if len({field.number for field in fields}) != len(fields):
        raise _malformed("an opaque field twice")
    return tuple(fields)


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"GPU evidence: {what}", code="malformed-quote")
