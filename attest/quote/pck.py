"""The platform's certificate (PCK) inside a quote, as far as a quote's bytes tell: nothing is verified here.

Who fetches collateral needs the FMSPC and the kind of CA before anything can be verified, and the strict
layer holds these fields against what the verification library read from the same bytes.
"""

from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509

from assay.attest.quote.certificates import parse_chain
from assay.attest.quote.parse import Quote
from assay.attest.quote.sgx import PCK_CHAIN_PEM
from assay.tlog.errors import MalformedError

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
SGX_EXTENSION_OID_DER = bytes.fromhex("2a864886f84d010d01")
"""The content octets of that OID's DER; the elements' OIDs extend it by one or two arcs."""

_SEQUENCE, _BOOLEAN, _INTEGER, _OCTETS, _OID, _ENUMERATED = 0x30, 0x01, 0x02, 0x04, 0x06, 0x0A


class PckCa(StrEnum):
    """Which of Intel's CAs issued a PCK certificate; the word that PCS takes as ``ca``."""

    PROCESSOR = "processor"
    PLATFORM = "platform"


@dataclass(frozen=True, slots=True)
class PlatformConfiguration:
    """Flags of a multi-package platform (element .7)."""

    dynamic_platform: bool
    cached_keys: bool
    smt_enabled: bool


@dataclass(frozen=True, slots=True)
class PckExtension:
    """The SGX extension of a PCK certificate (OID 1.2.840.113741.1.13.1, PCK Certificate Profile §1.3.5).

    ========  ==========================================================================
    element   field
    ========  ==========================================================================
    .1        ppid: 16 bytes, a lasting id of the machine; publish only its hash
    .2.1-.16  the 16 SVNs of .2.18 as integers; both spellings must agree
    .2.17     pce_svn
    .2.18     cpu_svn: 16 bytes
    .3        pce_id: 2 bytes
    .4        fmspc: 6 bytes
    .5        sgx_type: 0 standard, 1 scalable, 2 scalable with integrity
    .6        platform_instance_id: 16 bytes; Platform CA only
    .7        configuration; Platform CA only
    ========  ==========================================================================
    """

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance_id: bytes | None
    configuration: PlatformConfiguration | None


@dataclass(frozen=True, slots=True)
class PckCertificate:
    """What a PCK certificate says of its platform."""

    extension: PckExtension
    ca: PckCa


def unverified_pck(quote: Quote) -> PckCertificate:
    """Read the PCK certificate that a quote carries, before anyone has verified it.

    Raises:
        MalformedError: codes ``unsupported-cert-data`` (no PEM chain in the quote) and ``malformed-quote``
            (no certificate there, no SGX extension in it, or an issuer that is no PCK CA).
    """
    parts = quote.signature
    if parts.certification_type != PCK_CHAIN_PEM:
        raise MalformedError(
            f"quote: certification data of type {parts.certification_type}, not a PCK chain",
            code="unsupported-cert-data",
        )
    leaf = parse_chain(parts.certification_data, what="quote", code="malformed-quote")[0]
    try:
        extension = leaf.extensions.get_extension_for_oid(SGX_EXTENSION).value
        issuer = leaf.issuer
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise MalformedError(
            "quote: no PCK certificate with an SGX extension", code="malformed-quote"
        ) from error
    return PckCertificate(parse_pck_extension(extension.public_bytes()), _ca_kind(issuer))


def parse_pck_extension(der: bytes) -> PckExtension:
    """Read the SGX extension's DER. Elements that are not in the table are skipped: Intel adds some.

    Raises:
        MalformedError: not DER, an element missing, twice or of another type, or SVNs in two versions
            (code ``malformed-quote``).
    """
    fields = _members(der)
    tcb = _members_of(fields.need((2,), _SEQUENCE), prefix=(2,))
    cpu_svn = tcb.need((2, 18), _OCTETS, size=16)
    if bytes(_small_integer(tcb.need((2, n), _INTEGER), high=255) for n in range(1, 17)) != cpu_svn:
        raise _malformed("CPUSVN differs from its components")
    return PckExtension(
        ppid=fields.need((1,), _OCTETS, size=16),
        cpu_svn=cpu_svn,
        pce_svn=_small_integer(tcb.need((2, 17), _INTEGER), high=0xFFFF),
        pce_id=fields.need((3,), _OCTETS, size=2),
        fmspc=fields.need((4,), _OCTETS, size=6),
        sgx_type=_small_integer(fields.need((5,), _ENUMERATED), high=255),
        platform_instance_id=fields.need((6,), _OCTETS, size=16) if fields.has((6,)) else None,
        configuration=_configuration(fields.need((7,), _SEQUENCE)) if fields.has((7,)) else None,
    )


def _ca_kind(issuer: x509.Name) -> PckCa:
    names = issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    for ca in PckCa:
        if len(names) == 1 and ca.value.capitalize() in str(names[0].value):
            return ca
    raise _malformed("the issuer is neither the Processor nor the Platform CA")


def _configuration(content: bytes) -> PlatformConfiguration:
    flags = _members_of(content, prefix=(7,))
    return PlatformConfiguration(*(_boolean(flags.need((7, n), _BOOLEAN)) for n in (1, 2, 3)))


class _Members:
    """The (tag, content) of each SEQUENCE{OID, value}, by the arcs below the extension's OID."""

    def __init__(self, found: dict[bytes, tuple[int, bytes]]) -> None:
        self._found = found

    def has(self, arcs: tuple[int, ...]) -> bool:
        return bytes(arcs) in self._found

    def need(self, arcs: tuple[int, ...], tag: int, *, size: int | None = None) -> bytes:
        found_tag, content = self._found.get(bytes(arcs), (None, b""))
        if found_tag != tag or (size is not None and len(content) != size):
            raise _malformed(f"element .{'.'.join(map(str, arcs))} is missing or of another type")
        return content


def _members(der: bytes) -> _Members:
    elements = _elements(der)
    if len(elements) != 1 or elements[0][0] != _SEQUENCE:
        raise _malformed("not one SEQUENCE")
    return _members_of(elements[0][1], prefix=())


def _members_of(content: bytes, *, prefix: tuple[int, ...]) -> _Members:
    base = SGX_EXTENSION_OID_DER + bytes(prefix)
    found: dict[bytes, tuple[int, bytes]] = {}
    for tag, pair in _elements(content):
        parts = _elements(pair) if tag == _SEQUENCE else []
        if len(parts) != 2 or parts[0][0] != _OID or not parts[0][1].startswith(base):
            raise _malformed("an element is not {OID, value}")
        arcs = parts[0][1].removeprefix(SGX_EXTENSION_OID_DER)
        if arcs in found:
            raise _malformed("an element occurs twice")
        found[arcs] = parts[1]
    return _Members(found)


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Split DER into (tag, content): one-byte tags, definite lengths in their shortest form, below 64 KiB."""
    found = []
    offset = 0
    while offset < len(data):
        size, start = _length(data, offset + 1)
        if start + size > len(data):
            raise _malformed("an element overruns")
        found.append((data[offset], data[start : start + size]))
        offset = start + size
    return found


def _length(data: bytes, offset: int) -> tuple[int, int]:
    first = data[offset] if offset < len(data) else 0xFF
    extra = {0x81: 1, 0x82: 2}.get(first, 0)
    if first > 0x82 or first == 0x80 or offset + extra >= len(data):
        raise _malformed("a length is missing, indefinite or too large")
    size = int.from_bytes(data[offset + 1 : offset + 1 + extra], "big") if extra else first
    if extra and size < (0x80, 0x100)[extra - 1]:
        raise _malformed("a length is not in its shortest form")
    return size, offset + 1 + extra


def _small_integer(content: bytes, *, high: int) -> int:
    value = int.from_bytes(content, "big", signed=True)
    if not content or not 0 <= value <= high or len(content) != value.bit_length() // 8 + 1:
        raise _malformed("an integer is negative, too large or not in its shortest form")
    return value


def _boolean(content: bytes) -> bool:
    if content not in {b"\x00", b"\xff"}:
        raise _malformed("a boolean is neither 00 nor FF")
    return content == b"\xff"


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"PCK certificate: {what}", code="malformed-quote")
