"""SIGSTRUCT: the signed statement by which SGX hardware lets an enclave start.

1808 bytes, little-endian (Intel SDM volume 3D, 38.13); offsets in bytes::

       0   16  HEADER 06000000 e1000000 00000100 00000000        910    2  zeros
      16    4  VENDOR                                            912   16  ISVFAMILYID
      20    4  DATE in BCD: day, month, u16 year                 928    8  ATTRIBUTES.FLAGS
      24   16  HEADER2 01010000 60000000 60000000 01000000       936    8  ATTRIBUTES.XFRM
      40    4  SWDEFINED                                         944   16  the masks of both
      44   84  zeros                                             960   32  ENCLAVEHASH (MRENCLAVE)
     128  384  MODULUS                                           992   16  zeros
     512    4  EXPONENT = 3                                     1008   16  ISVEXTPRODID
     516  384  SIGNATURE                                        1024    4  ISVPRODID, ISVSVN
     900    4  MISCSELECT                                       1028   12  zeros
     904    4  MISCMASK                                         1040  384  Q1
     908    2  CET attributes and their mask                    1424  384  Q2

Signed are bytes [0, 128) and [900, 1028) with RSA-3072, e = 3, PKCS #1 v1.5 and SHA-256, which is
deterministic. Q1 and Q2 help the processor to divide: with s and n they are s² // n and (s² mod n)·s // n.
"""

import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, RSAPublicNumbers

from assay.tlog.errors import MalformedError, UntrustedError

SIGSTRUCT_SIZE = 1808
SIGNED_SIZE = 256
NO_DATE = "0000-00-00"
"""The date of reproducible SIGSTRUCTs; Gramine documents it for this purpose."""

FLAG_DEBUG, FLAG_MODE64 = 2, 4
MISC_EXINFO = 1

_HEADER = bytes.fromhex("06000000e10000000000010000000000")
_HEADER2 = bytes.fromhex("01010000600000006000000001000000")
_KEY_SIZE = 384
_EXPONENT = 3
_FIRST = struct.Struct("<16sI4s16sI84s")
_SECOND = struct.Struct("<II2s2s16sQQQQ32s16s16sHH")
_MAX_EPOCH_S = 253_402_300_799  # 9999-12-31T23:59:59Z
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBody:
    """The signed fields, under Gramine's names; the defaults are what Gramine writes.

    Attributes:
        date: ``YYYY-MM-DD``; any digits, also ``0000-00-00``.
        cet: CET attributes and their mask, 2 bytes.
    """

    mr_enclave: bytes
    isv_prod_id: int
    isv_svn: int
    attribute_flags: int
    attribute_xfrms: int
    attribute_xfrm_mask: int
    misc_select: int
    date: str
    attribute_flags_mask: int = 0xFFFFFFFFFFFFFFFF
    misc_mask: int = 0xFFFFFFFF
    vendor: int = 0
    software_defined: int = 0
    cet: bytes = bytes(2)
    isv_family_id: bytes = bytes(16)
    isv_ext_prod_id: bytes = bytes(16)

    @property
    def debug_enclave(self) -> bool:
        """Whether a debugger may read the enclave; no release is."""
        return bool(self.attribute_flags & FLAG_DEBUG)

    def to_bytes(self) -> bytes:
        """The 256 signed bytes.

        Raises:
            MalformedError: a date in another form, or a number or byte string that does not fit its field.
        """
        sizes = (len(self.mr_enclave), len(self.cet), len(self.isv_family_id), len(self.isv_ext_prod_id))
        if sizes != (32, 2, 16, 16):
            raise MalformedError("SIGSTRUCT: a field has another length")
        try:
            return self._first_half() + self._second_half()
        except struct.error as error:
            raise MalformedError(f"SIGSTRUCT: a number does not fit its field ({error})") from error

    def _first_half(self) -> bytes:
        return _FIRST.pack(
            _HEADER, self.vendor, _bcd_date(self.date), _HEADER2, self.software_defined, bytes(84)
        )

    def _second_half(self) -> bytes:
        return _SECOND.pack(
            self.misc_select,
            self.misc_mask,
            self.cet,
            bytes(2),
            self.isv_family_id,
            self.attribute_flags,
            self.attribute_xfrms,
            self.attribute_flags_mask,
            self.attribute_xfrm_mask,
            self.mr_enclave,
            bytes(16),
            self.isv_ext_prod_id,
            self.isv_prod_id,
            self.isv_svn,
        )


@dataclass(frozen=True, slots=True)
class SigStruct:
    """A parsed SIGSTRUCT of which nothing is verified yet: see :func:`verify_sigstruct`."""

    body: SignedBody
    modulus: int
    signature: int
    q1: int
    q2: int

    @property
    def mr_signer(self) -> bytes:
        """SHA-256 of the modulus as it is stored, little-endian."""
        return mr_signer(self.modulus)

    def to_bytes(self) -> bytes:
        """The 1808 bytes; the inverse of :func:`parse_sigstruct`."""
        signed = self.body.to_bytes()
        key = _little(self.modulus) + _EXPONENT.to_bytes(4, "little") + _little(self.signature)
        return signed[:128] + key + signed[128:] + bytes(12) + _little(self.q1) + _little(self.q2)


def mr_signer(modulus: int) -> bytes:
    """MRSIGNER of a 3072-bit modulus: SHA-256 of its 384 little-endian bytes."""
    return hashlib.sha256(_little(modulus)).digest()


def parse_sigstruct(data: bytes) -> SigStruct:
    """Parse 1808 bytes without verifying their signature.

    Raises:
        MalformedError: another length, header or exponent, a date that is no BCD, or a reserved byte that is not 0.
    """
    if len(data) != SIGSTRUCT_SIZE:
        raise MalformedError(f"SIGSTRUCT: {len(data)} bytes, not {SIGSTRUCT_SIZE}")
    sigstruct = SigStruct(
        _parse_body(data[:128], data[900:1028]),
        int.from_bytes(data[128:512], "little"),
        int.from_bytes(data[516:900], "little"),
        int.from_bytes(data[1040:1424], "little"),
        int.from_bytes(data[1424:], "little"),
    )
    if sigstruct.to_bytes() != data:
        raise MalformedError(
            "SIGSTRUCT: a header constant, the exponent or a reserved byte has another value"
        )
    return sigstruct


def verify_sigstruct(data: bytes) -> SigStruct:
    """Parse a SIGSTRUCT and verify its signature, Q1 and Q2, as the processor does at EINIT.

    It vouches for the contents under ``mr_signer``; whether that signer, the measurement or the attributes are
    the expected ones is the caller's question.

    Raises:
        MalformedError: see :func:`parse_sigstruct`.
        UntrustedError: no RSA-3072 modulus, a wrong signature (code ``bad-signature``), or a wrong Q1 or Q2.
    """
    sigstruct = parse_sigstruct(data)
    modulus, signature = sigstruct.modulus, sigstruct.signature
    if modulus.bit_length() != 8 * _KEY_SIZE or modulus % 2 == 0 or signature >= modulus:
        raise UntrustedError("SIGSTRUCT: no RSA-3072 signature", code="bad-signature")
    public_key = RSAPublicNumbers(_EXPONENT, modulus).public_key()
    try:
        public_key.verify(
            signature.to_bytes(_KEY_SIZE, "big"),
            sigstruct.body.to_bytes(),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
    except InvalidSignature as error:
        raise UntrustedError("SIGSTRUCT: the signature does not verify", code="bad-signature") from error
    if (sigstruct.q1, sigstruct.q2) != _quotients(modulus, signature):
        raise UntrustedError("SIGSTRUCT: Q1 or Q2 is wrong", code="bad-signature")
    return sigstruct


def sign_sigstruct(body: SignedBody, key: RSAPrivateKey) -> SigStruct:
    """Sign a body; the same body and key give the same bytes.

    Raises:
        MalformedError: the key is not RSA-3072 with exponent 3 (code ``wrong-key``), or a field of the body is
            malformed.
    """
    return sign_with(
        body, key.public_key(), lambda signed: key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    )


def sign_with(body: SignedBody, public_key: RSAPublicKey, sign: Callable[[bytes], bytes]) -> SigStruct:
    """Sign a body through something that holds the key: an HSM, a key service, another process.

    Args:
        body: what is signed.
        public_key: the signer's.
        sign: takes the 256 signed bytes and gives the RSASSA-PKCS1-v1_5 signature with SHA-256, 384 bytes, big-endian
            as everywhere but in SIGSTRUCT (RFC 8017 section 8.2).

    Raises:
        MalformedError: see :func:`sign_sigstruct`.
        UntrustedError: what the signer gave is no signature of its key over these bytes (code ``bad-signature``).
        Exception: whatever ``sign`` raises.
    """
    public = public_key.public_numbers()
    if public.n.bit_length() != 8 * _KEY_SIZE or public.e != _EXPONENT:
        raise MalformedError("SIGSTRUCT: SGX signs with RSA-3072 and exponent 3 only", code="wrong-key")
    answer = sign(body.to_bytes())
    if len(answer) != _KEY_SIZE or (signature := int.from_bytes(answer, "big")) >= public.n:
        raise UntrustedError("SIGSTRUCT: the signer gave no RSA-3072 signature", code="bad-signature")
    signed = SigStruct(body, public.n, signature, *_quotients(public.n, signature))
    return verify_sigstruct(signed.to_bytes())


def date_of(epoch_s: int) -> str:
    """The UTC date of a time in Unix seconds, as :class:`SignedBody` has it.

    Raises:
        MalformedError: before 1970 or after 9999.
    """
    if not 0 <= epoch_s <= _MAX_EPOCH_S:
        raise MalformedError(f"SIGSTRUCT: {epoch_s} seconds have no date in four digits")
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d")


def _parse_body(first: bytes, second: bytes) -> SignedBody:
    _, vendor, date, _, software_defined, _ = _FIRST.unpack(first)
    misc_select, misc_mask, cet, _, isv_family_id, *rest = _SECOND.unpack(second)
    flags, xfrms, flags_mask, xfrm_mask, mr_enclave, _, isv_ext_prod_id, isv_prod_id, isv_svn = rest
    return SignedBody(
        mr_enclave=mr_enclave,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        attribute_flags=flags,
        attribute_xfrms=xfrms,
        attribute_flags_mask=flags_mask,
        attribute_xfrm_mask=xfrm_mask,
        misc_select=misc_select,
        misc_mask=misc_mask,
        date=_date_text(date),
        vendor=vendor,
        software_defined=software_defined,
        cet=cet,
        isv_family_id=isv_family_id,
        isv_ext_prod_id=isv_ext_prod_id,
    )


def _quotients(modulus: int, signature: int) -> tuple[int, int]:
    q1, remainder = divmod(signature * signature, modulus)
    return q1, remainder * signature // modulus


def _little(value: int) -> bytes:
    return value.to_bytes(_KEY_SIZE, "little")


def _bcd_date(date: str) -> bytes:
    if not _DATE.fullmatch(date):
        raise MalformedError(f"SIGSTRUCT: the date {date[:16]!r} is not YYYY-MM-DD")
    return bytes.fromhex(date.replace("-", ""))[::-1]


def _date_text(data: bytes) -> str:
    digits = data[::-1].hex()
    date = f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
    if not _DATE.fullmatch(date):
        raise MalformedError("SIGSTRUCT: the date is not BCD")
    return date
