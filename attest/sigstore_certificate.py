"""A signing certificate as Sigstore's Fulcio issues it: read strictly, believed by nobody yet.

It binds a key that lives for minutes to a name (subject alternative name) and to whoever vouched for that name to
the CA (the OIDC issuer), as in sigstore/fulcio, docs/oid-info.md and docs/certificate-specification.md. Who issued
it, and when it counts, :mod:`~assay.attest.sigstore_identity` judges.
"""

import functools
import re
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.certificate_transparency import SignedCertificateTimestamp
from cryptography.x509.oid import ExtendedKeyUsageOID

from assay.attest import p256
from assay.tlog.errors import MalformedError

MAX_CERTIFICATE_SIZE = 4096
"""Fulcio's certificates for a workflow have about 2 KiB."""

MAX_NAME_LENGTH = 255
"""Of an identity and of an issuer: so long an index term may be."""

MAX_SCTS = 8

ISSUER_V1 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""The issuer as bare bytes, which newer certificates repeat."""
ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
"""The issuer as a DER UTF8String."""

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    CryptographyDeprecationWarning,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
"""How the library says that bytes are no certificate, or none that it reads."""

_PRINTABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Whom a certificate names: an e-mail address or URI, and the OIDC issuer that vouched for it."""

    identity: str
    issuer: str

    def __post_init__(self) -> None:
        """Both are visible ASCII of at most 255 characters.

        Raises:
            MalformedError: they are not (code ``certificate``).
        """
        for name in (self.identity, self.issuer):
            if len(name) > MAX_NAME_LENGTH or not _PRINTABLE.fullmatch(name):
                raise MalformedError("an identity or issuer that is not visible ASCII", code="certificate")

    def __str__(self) -> str:
        """For people."""
        return f"{self.identity} (by {self.issuer})"


@dataclass(frozen=True, slots=True)
class SigningCertificate:
    """A well-formed certificate.

    Attributes:
        certificate: as the library has it.
        spki: DER of its P-256 key.
        identity: whom it names.
        tbs: DER of all that its issuer signed; the issuer's signature itself may have two spellings.
        scts: the timestamps embedded in it, which may be none.
    """

    certificate: x509.Certificate
    spki: bytes
    identity: Identity
    tbs: bytes
    scts: tuple[SignedCertificateTimestamp, ...]

    @property
    def not_before(self) -> datetime:
        """UTC; the first second in which it counts."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """UTC; the last second in which it counts."""
        return self.certificate.not_valid_after_utc


@functools.lru_cache(maxsize=256)
def parse_signing_certificate(der: bytes) -> SigningCertificate:
    """Read a certificate; its signature is not looked at.

    Raises:
        MalformedError: longer than 4,096 bytes, not canonical DER of X.509 v3, not on P-256, a CA's, not for code
            signing alone, or without exactly one e-mail address or URI and an issuer (code ``certificate``).
    """
    if len(der) > MAX_CERTIFICATE_SIZE:
        raise _bad(f"longer than {MAX_CERTIFICATE_SIZE} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        _require_leaf(certificate, der)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise _bad("its key is not on P-256")
        return SigningCertificate(
            certificate=certificate,
            spki=p256.spki(key),
            identity=Identity(_subject(certificate), _issuer(certificate)),
            tbs=certificate.tbs_certificate_bytes,
            scts=_scts(certificate),
        )
    except UNREADABLE as error:
        raise _bad("not DER of a certificate") from error


def _require_leaf(certificate: x509.Certificate, der: bytes) -> None:
    if certificate.version is not x509.Version.v3 or certificate.serial_number <= 0:
        raise _bad("not of version 3, or a serial number that is not positive")
    if certificate.public_bytes(Encoding.DER) != der:
        raise _bad("not in its canonical DER")
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if list(purposes) != [ExtendedKeyUsageOID.CODE_SIGNING]:
        raise _bad("not for code signing alone")
    if not usage.digital_signature or usage.key_cert_sign or _is_ca(extensions):
        raise _bad("a CA's certificate, or one whose key may not sign")


def _is_ca(extensions: x509.Extensions) -> bool:
    return any(isinstance(each.value, x509.BasicConstraints) and each.value.ca for each in extensions)


def _subject(certificate: x509.Certificate) -> str:
    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) != 1 or not isinstance(names[0], x509.RFC822Name | x509.UniformResourceIdentifier):
        raise _bad("not exactly one e-mail address or URI as subject alternative name")
    return names[0].value


def _issuer(certificate: x509.Certificate) -> str:
    said = {
        each.oid: each.value.value
        for each in certificate.extensions
        if isinstance(each.value, x509.UnrecognizedExtension) and each.oid in (ISSUER_V1, ISSUER_V2)
    }
    issuers = {value.decode("ascii") for oid, value in said.items() if oid == ISSUER_V1}
    issuers |= {asn1.decode_der(str, value) for oid, value in said.items() if oid == ISSUER_V2}
    if len(issuers) != 1:
        raise _bad("no OIDC issuer, or two that differ")
    return issuers.pop()


def _scts(certificate: x509.Certificate) -> tuple[SignedCertificateTimestamp, ...]:
    found = [
        sct
        for each in certificate.extensions
        if isinstance(each.value, x509.PrecertificateSignedCertificateTimestamps)
        for sct in each.value
    ]
    if len(found) > MAX_SCTS:
        raise _bad(f"more than {MAX_SCTS} signed certificate timestamps")
    return tuple(found)


def _bad(reason: str) -> MalformedError:
    return MalformedError(f"certificate: {reason}", code="certificate")
