"""Signatures over a digest, as Sigstore's clients make them: ECDSA and RSA, by a key or a certificate's key.

What the certificate says of its owner is for whoever relies on the entry to judge; the log only states that
the key in it made the signature.
"""

import functools
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from assay.attest.hashedrekord import HashedRekord
from assay.tlog.errors import MalformedError, UntrustedError

_MAX_IDENTITY = 255

_CURVES = {
    "PKIX_ECDSA_P256_SHA_256": ("secp256r1", hashes.SHA256()),
    "PKIX_ECDSA_P384_SHA_384": ("secp384r1", hashes.SHA384()),
    "PKIX_ECDSA_P521_SHA_512": ("secp521r1", hashes.SHA512()),
}
_MODULI = {
    "PKIX_RSA_PKCS1V15_2048_SHA256": 2048,
    "PKIX_RSA_PKCS1V15_3072_SHA256": 3072,
    "PKIX_RSA_PKCS1V15_4096_SHA256": 4096,
}

_Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Verifier:
    """The key that an entry names.

    Attributes:
        key: EC or RSA.
        spki: its SubjectPublicKeyInfo DER.
        identities: of a certificate, the e-mail addresses and URIs in its SubjectAltName, as they stand there.
    """

    key: _Key
    spki: bytes
    identities: tuple[str, ...]


@functools.lru_cache(maxsize=256)
def parse_verifier(der: bytes, *, certificate: bool) -> Verifier:
    """Load a key from SPKI DER, or a certificate's key.

    Raises:
        MalformedError: not DER of that kind in its only spelling, or a key that is neither EC nor RSA.
    """
    try:
        if certificate:
            parsed = x509.load_der_x509_certificate(der)
            key: object = parsed.public_key()
            identities = _identities(parsed)
        else:
            key, identities = load_der_public_key(der), ()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise MalformedError(
            f"verifier: not the DER of a {'certificate' if certificate else 'key'}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise MalformedError("verifier: neither an EC nor an RSA key")
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not certificate and spki != der:
        raise MalformedError("verifier: not the canonical DER encoding of the key")
    return Verifier(key, spki, identities)


def verify_signature(record: HashedRekord) -> Verifier:
    """Verify an entry's signature over its digest, and return whose it is.

    Raises:
        MalformedError: an unusable verifier, or one that is not what ``keyDetails`` says (code ``algorithm``).
        UntrustedError: the signature does not verify (code ``signature``).
    """
    verifier = parse_verifier(record.verifier, certificate=record.certificate)
    key = verifier.key
    try:
        if isinstance(key, rsa.RSAPublicKey):
            _require(_MODULI.get(record.key_details) == key.key_size, record)
            key.verify(record.signature, record.digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
        else:
            name, algorithm = _CURVES.get(record.key_details, ("", None))
            _require(name == key.curve.name, record)
            assert algorithm is not None
            _require_der(record.signature)
            key.verify(record.signature, record.digest, ec.ECDSA(Prehashed(algorithm)))
    except InvalidSignature as error:
        raise UntrustedError("the signature over the digest does not verify", code="signature") from error
    return verifier


def _require(fits: bool, record: HashedRekord) -> None:
    if not fits:
        raise MalformedError(f"verifier: not a key for {record.key_details}", code="algorithm")


def _require_der(signature: bytes) -> None:
    """One spelling of (r, s): the twin with n - s is another entry, as it is in Rekor."""
    try:
        r, s = decode_dss_signature(signature)
        if encode_dss_signature(r, s) == signature:
            return
    except ValueError:
        pass
    raise MalformedError("signature: not the DER of two integers")


def _identities(certificate: x509.Certificate) -> tuple[str, ...]:
    """What the index finds a certificate by; names too long to be one are left out."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    found = [
        *names.get_values_for_type(x509.RFC822Name),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
    ]
    return tuple(
        name for name in dict.fromkeys(found) if 0 < len(name) <= _MAX_IDENTITY and "\x00" not in name
    )
