"""What AMD's and NVIDIA's evidence have in common: certificates up to a pinned key, and P-384 at the leaf.

These are checks of single certificates and links. Which of them make a chain, in which order and with which
names, say ``snp_certificates`` and ``verify_nvidia``.
"""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from assay.attest.roots.pinned import PinnedRoot
from assay.tlog.errors import MalformedError, StaleError, UntrustedError

MAX_CHAIN_SIZE = 64 * 1024
"""Bytes of a whole chain; real ones have 5 to 7 KiB. The bound comes before any parsing."""

_UNDERSTOOD = {x509.BasicConstraints.oid, x509.KeyUsage.oid}
"""The extensions that may be critical; any other critical one forbids the use (RFC 5280 §4.2)."""

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Period:
    """When something counts: from the one second until the other, in Unix seconds, the end excluded."""

    from_s: int
    until_s: int


def common_period(periods: Iterable[Period]) -> Period:
    """When all of them count."""
    each = list(periods)
    return Period(max(period.from_s for period in each), min(period.until_s for period in each))


def load_certificate(der: bytes, *, what: str) -> x509.Certificate:
    """Parse one certificate from DER.

    Raises:
        MalformedError: it is none (code ``malformed-collateral``).
    """
    try:
        with _serial_zero_allowed():
            return x509.load_der_x509_certificate(der)
    except _UNREADABLE as error:
        raise malformed(what, "not an X.509 certificate") from error


def load_pem_chain(pem: bytes, *, count: int, what: str) -> tuple[x509.Certificate, ...]:
    """Parse exactly ``count`` certificates from PEM, in the order of the text.

    Raises:
        MalformedError: too many bytes, or another number of certificates (code ``malformed-collateral``).
    """
    if len(pem) > MAX_CHAIN_SIZE:
        raise malformed(what, f"more than {MAX_CHAIN_SIZE} bytes")
    try:
        with _serial_zero_allowed():
            chain = tuple(x509.load_pem_x509_certificates(pem))
    except _UNREADABLE as error:
        raise malformed(what, "no PEM certificates") from error
    if len(chain) != count:
        raise malformed(what, f"{len(chain)} certificates, not {count}")
    return chain


def malformed(what: str, why: str) -> MalformedError:
    """The error for certificates and lists that are in no form that is read."""
    return MalformedError(f"{what}: {why}", code="malformed-collateral")


def untrusted(what: str, why: str) -> UntrustedError:
    """The error for a certificate that has no place in the chain."""
    return UntrustedError(f"{what}: {why}", code="untrusted-chain")


def serial_of(certificate: x509.Certificate) -> int:
    """The serial number; 0 in every VCEK."""
    with _serial_zero_allowed():
        return certificate.serial_number


def require_pinned(certificate: x509.Certificate, root: PinnedRoot) -> None:
    """The certificate's key is the root's.

    Raises:
        UntrustedError: another key (code ``wrong-root``).
        MalformedError: a key that cannot be read (code ``malformed-collateral``).
    """
    try:
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except _UNREADABLE as error:
        raise malformed("root", "a key of an unknown kind") from error
    if hashlib.sha256(spki).hexdigest() != root.spki_sha256:
        raise UntrustedError(f"the chain does not end at the root {root.name!r}", code="wrong-root")


def require_issued(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    *,
    algorithm: x509.ObjectIdentifier,
    what: str,
) -> None:
    """The issuer's name stands in the certificate, and its key signed it, with this algorithm over SHA-384.

    Raises:
        UntrustedError: not so (code ``untrusted-chain``).
    """
    try:
        hashed = certificate.signature_hash_algorithm
        certificate.verify_directly_issued_by(issuer)
    except (*_UNREADABLE, InvalidSignature) as error:
        raise untrusted(what, "not issued by the next certificate") from error
    if certificate.signature_algorithm_oid != algorithm or not isinstance(hashed, SHA384):
        raise untrusted(what, "signed with another algorithm than its vendor's")


def require_role(certificate: x509.Certificate, *, is_ca: bool, what: str) -> None:
    """A CA says that it is one and may sign certificates; a leaf says neither; nothing unknown is critical.

    Raises:
        UntrustedError: not so (code ``untrusted-chain``).
        MalformedError: extensions that cannot be read, or one that occurs twice (``malformed-collateral``).
    """
    extensions = extensions_of(certificate, what=what)
    if any(extension.critical and extension.oid not in _UNDERSTOOD for extension in extensions):
        raise untrusted(what, "an unknown critical extension")
    values = [extension.value for extension in extensions]
    ca = any(value.ca for value in values if isinstance(value, x509.BasicConstraints))
    signs = any(value.key_cert_sign for value in values if isinstance(value, x509.KeyUsage))
    if (ca, signs) != (is_ca, is_ca):
        raise untrusted(what, "no CA" if is_ca else "a CA")


def extensions_of(certificate: x509.Certificate, *, what: str) -> x509.Extensions:
    """The extensions, each of which occurs once.

    Raises:
        MalformedError: they cannot be read (code ``malformed-collateral``).
    """
    try:
        return certificate.extensions
    except _UNREADABLE as error:
        raise malformed(what, "unreadable extensions") from error


def period_at(certificate: x509.Certificate, *, now_s: int, what: str) -> Period:
    """The certificate's validity, in which ``now_s`` lies; notAfter is its last second.

    Raises:
        StaleError: codes ``cert-expired`` and ``cert-not-yet-valid``.
    """
    period = Period(
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()) + 1,
    )
    if now_s < period.from_s:
        raise StaleError(f"{what}: not yet valid", code="cert-not-yet-valid")
    if now_s >= period.until_s:
        raise StaleError(f"{what}: expired", code="cert-expired")
    return period


def p384_key(certificate: x509.Certificate, *, what: str) -> ec.EllipticCurvePublicKey:
    """The certificate's key, which is on P-384.

    Raises:
        UntrustedError: another curve or kind of key (code ``untrusted-chain``).
    """
    try:
        key = certificate.public_key()
    except _UNREADABLE as error:
        raise untrusted(what, "a key of an unknown kind") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise untrusted(what, "the key is not on P-384")
    return key


def require_signature(key: ec.EllipticCurvePublicKey, *, r: int, s: int, message: bytes) -> None:
    """(r, s) is an ECDSA signature of the message with SHA-384. Its twin (r, n - s) is one as well.

    Raises:
        UntrustedError: it is not (code ``bad-quote-signature``).
    """
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise UntrustedError(
            "the evidence is not signed by its certificate's key", code="bad-quote-signature"
        ) from error


@contextmanager
def _serial_zero_allowed() -> Iterator[None]:
    """Every VCEK of AMD's has serial number 0, against RFC 5280, and the library warns of it each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")
        yield
