"""The signature of a ``hashedrekord``: over a digest, by a key of the kind that the entry names.

What Rekor v2 admits (rekor-spec, "client signing algorithms"): ECDSA on P-256, P-384 and P-521, RSA PKCS #1 v1.5 of
2048, 3072 and 4096 bits with SHA-256. It also admits Ed25519ph (RFC 8032 §5.1), which the library that we verify
with does not know: such an entry is refused with a code of its own. A certificate's chain and validity are nobody's
business here, as in Rekor: a certificate only carries the key and says a name for it.
"""

import functools
import hashlib
import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from assay.attest.hashedrekord import HashedRekord, VerifierKind
from assay.tlog.errors import MalformedError, UntrustedError

MAX_IDENTITY_LENGTH = 255
MAX_IDENTITIES = 16

_CURVES = {
    "PKIX_ECDSA_P256_SHA_256": ("secp256r1", ec.ECDSA(Prehashed(hashes.SHA256()))),
    "PKIX_ECDSA_P384_SHA_384": ("secp384r1", ec.ECDSA(Prehashed(hashes.SHA384()))),
    "PKIX_ECDSA_P521_SHA_512": ("secp521r1", ec.ECDSA(Prehashed(hashes.SHA512()))),
}
_MODULUS_BITS = {
    "PKIX_RSA_PKCS1V15_2048_SHA256": 2048,
    "PKIX_RSA_PKCS1V15_3072_SHA256": 3072,
    "PKIX_RSA_PKCS1V15_4096_SHA256": 4096,
}
_RSA_HASH = Prehashed(hashes.SHA256())
_MAX_RSA_EXPONENT = 2**31 - 1
"""As Go's crypto/rsa has it; a huge exponent makes a check as slow as a private operation."""

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""How the library says that bytes are no key or certificate, or none that it reads."""

_PRINTABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Signer:
    """The key of an entry, and what it is found by.

    Attributes:
        key: of a type that some key details name.
        signer_id: hex SHA-256 of the key's SPKI DER, whether a certificate carries it or not.
        identities: the e-mail addresses and URIs of the certificate's SAN. The log vouches for none of them.
    """

    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    signer_id: str
    identities: tuple[str, ...]


def verify(entry: HashedRekord) -> Signer:
    """Verify the entry's signature over its digest and return who made it.

    Raises:
        MalformedError: an unusable key or certificate (code ``unsupported-key``).
        UntrustedError: the key is not of the kind that the key details name (code ``key-details``), or the signature
            does not verify (code ``signature``).
    """
    signer = signer_of(entry)
    try:
        if isinstance(signer.key, ec.EllipticCurvePublicKey):
            curve, algorithm = _CURVES.get(entry.key_details, (None, None))
            if algorithm is None or signer.key.curve.name != curve:
                raise _other_key(entry)
            signer.key.verify(entry.signature, entry.digest, algorithm)  # OpenSSL takes DER alone
        else:
            if signer.key.key_size != _MODULUS_BITS.get(entry.key_details):
                raise _other_key(entry)
            signer.key.verify(entry.signature, entry.digest, padding.PKCS1v15(), _RSA_HASH)
    except InvalidSignature as error:
        raise UntrustedError("the signature does not verify over the digest", code="signature") from error
    return signer


def signer_of(entry: HashedRekord) -> Signer:
    """Read the key that an entry names; the signature is not looked at.

    Raises:
        MalformedError: Ed25519ph, or no key or certificate that is admitted (code ``unsupported-key``).
    """
    if entry.key_details == "PKIX_ED25519_PH":
        raise MalformedError("hashedrekord: Ed25519ph cannot be verified by this log", code="unsupported-key")
    return _parse_signer(entry.verifier_kind, entry.verifier)


def _other_key(entry: HashedRekord) -> UntrustedError:
    return UntrustedError(f"the key is not of the kind {entry.key_details}", code="key-details")


@functools.lru_cache(maxsize=512)
def _parse_signer(kind: VerifierKind, der: bytes) -> Signer:
    """Cached, because a publisher signs many times and reading a key costs half as much as a verification."""
    try:
        if kind is VerifierKind.PUBLIC_KEY:
            key, identities = load_der_public_key(der), tuple[str, ...]()
        else:
            certificate = x509.load_der_x509_certificate(der)
            if certificate.serial_number <= 0:  # later versions of the library will not read it: nor do we
                raise _unusable("a serial number that is not positive")
            key, identities = certificate.public_key(), _identities(certificate)
    except _UNREADABLE as error:
        raise _unusable("not DER of a public key or certificate") from error
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise _unusable("neither ECDSA nor RSA")
    if isinstance(key, rsa.RSAPublicKey):
        _require_sane_rsa(key)
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if kind is VerifierKind.PUBLIC_KEY and spki != der:
        raise _unusable("not the canonical DER of its public key")
    return Signer(key, hashlib.sha256(spki).hexdigest(), identities)


def _require_sane_rsa(key: rsa.RSAPublicKey) -> None:
    exponent = key.public_numbers().e
    if key.key_size not in _MODULUS_BITS.values() or not 3 <= exponent <= _MAX_RSA_EXPONENT:
        raise _unusable("an RSA modulus or exponent that no key details name")


def _identities(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    said = [
        *names.get_values_for_type(x509.RFC822Name),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
    ]
    fit = (name for name in said if len(name) <= MAX_IDENTITY_LENGTH and _PRINTABLE.fullmatch(name))
    return tuple(dict.fromkeys(fit))[:MAX_IDENTITIES]


def _unusable(reason: str) -> MalformedError:
    return MalformedError(f"hashedrekord.verifier: {reason}", code="unsupported-key")
