"""``hashedrekord`` 0.0.2: a signature over the hash of something, exactly as Rekor v2 logs it.

The leaf is the canonical body of Sigstore's rekor-tiles (its CLIENTS.md; ``rekor/v2/hashedrekord.proto`` of
sigstore/protobuf-specs), so that an unmodified Sigstore client recomputes our leaf hash::

    {"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{
        "data":{"algorithm":A,"digest":B},
        "signature":{"content":B,"verifier":{"keyDetails":K, V:{"rawBytes":B}}}}}}

A is SHA2_256, SHA2_384 or SHA2_512, the hash that the key details K fix; V is ``publicKey`` (SPKI DER) or
``x509Certificate`` (DER); B is standard base64. Every member is there, in this order, without spacing: RFC 8785
leaves one spelling of such an object, and one expression describes it. Nothing is verified here, see
``rekor_signature``.

The signature is inside the leaf and ECDSA's s has a twin, n - s, that verifies too: whoever sees an entry can log it
a second time under the twin. That is Rekor's format; the leaf hash is the entry's identity.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from assay.attest import jcs
from assay.tlog import strict
from assay.tlog.errors import MalformedError

KIND = "hashedrekord"
API_VERSION = "0.0.2"
PREFIX = b'{"apiVersion":"0.0.2","kind":"hashedrekord","spec":'
"""How a leaf of this kind begins, and no other canonical entry does."""

MAX_SIGNATURE_SIZE = 1024
"""RSA of 4096 bits needs 512 bytes."""
MAX_VERIFIER_SIZE = 16_384
"""Fulcio's certificates have about 2 KiB."""

DIGEST_SIZES = {"SHA2_256": 32, "SHA2_384": 48, "SHA2_512": 64}
"""The names of ``dev.sigstore.common.v1.HashAlgorithm``, and how many bytes each gives."""

KEY_DETAILS = {
    "PKIX_RSA_PKCS1V15_2048_SHA256": "SHA2_256",
    "PKIX_RSA_PKCS1V15_3072_SHA256": "SHA2_256",
    "PKIX_RSA_PKCS1V15_4096_SHA256": "SHA2_256",
    "PKIX_ECDSA_P256_SHA_256": "SHA2_256",
    "PKIX_ECDSA_P384_SHA_384": "SHA2_384",
    "PKIX_ECDSA_P521_SHA_512": "SHA2_512",
    "PKIX_ED25519_PH": "SHA2_512",
}
"""The names of ``dev.sigstore.common.v1.PublicKeyDetails`` that Rekor v2 admits, and the hash that each fixes."""


class VerifierKind(StrEnum):
    """In what form the entry names its key."""

    PUBLIC_KEY = "publicKey"
    CERTIFICATE = "x509Certificate"


_BASE64 = "[A-Za-z0-9+/]+={0,2}"
_LEAF = re.compile(
    (
        r'\{"apiVersion":"0\.0\.2","kind":"hashedrekord","spec":\{"hashedRekordV002":\{'
        rf'"data":\{{"algorithm":"([A-Z0-9_]+)","digest":"({_BASE64})"\}},'
        rf'"signature":\{{"content":"({_BASE64})","verifier":\{{"keyDetails":"([A-Z0-9_]+)",'
        rf'"(publicKey|x509Certificate)":\{{"rawBytes":"({_BASE64})"\}}\}}\}}\}}\}}\}}'
    ),
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class HashedRekord:
    """A signature over a digest.

    Attributes:
        digest: of what was signed, by the hash that ``key_details`` fix.
        signature: DER for ECDSA, PKCS #1 v1.5 for RSA.
        key_details: one of :data:`KEY_DETAILS`.
        verifier: DER of a SubjectPublicKeyInfo or of a certificate, as ``verifier_kind`` says.
    """

    digest: bytes
    signature: bytes
    key_details: str
    verifier_kind: VerifierKind
    verifier: bytes

    def __post_init__(self) -> None:
        """Keep to what the format can carry.

        Raises:
            MalformedError: unknown key details (code ``unsupported-key``), a digest of another length than their
                hash has, or a signature or verifier that is empty or too long.
        """
        if self.key_details not in KEY_DETAILS:
            raise MalformedError(
                f"hashedrekord: keyDetails {strict.shown(self.key_details)} is not admitted",
                code="unsupported-key",
            )
        if len(self.digest) != DIGEST_SIZES[self.algorithm]:
            raise MalformedError(
                f"hashedrekord: a digest of {len(self.digest)} bytes is not {self.algorithm}"
            )
        if not 0 < len(self.signature) <= MAX_SIGNATURE_SIZE:
            raise MalformedError(f"hashedrekord: a signature of {len(self.signature)} bytes")
        if not 0 < len(self.verifier) <= MAX_VERIFIER_SIZE:
            raise MalformedError(f"hashedrekord: a verifier of {len(self.verifier)} bytes")

    @property
    def algorithm(self) -> str:
        """The hash's name."""
        return KEY_DETAILS[self.key_details]

    def leaf(self) -> bytes:
        """The canonical body, byte for byte."""
        return (
            '{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{'
            f'"data":{{"algorithm":"{self.algorithm}","digest":"{strict.base64_text(self.digest)}"}},'
            f'"signature":{{"content":"{strict.base64_text(self.signature)}",'
            f'"verifier":{{"keyDetails":"{self.key_details}",'
            f'"{self.verifier_kind.value}":{{"rawBytes":"{strict.base64_text(self.verifier)}"}}}}}}}}}}}}'
        ).encode("ascii")


def parse_leaf(data: bytes) -> HashedRekord:
    """Parse a leaf; the caller has bounded its length.

    Raises:
        MalformedError: anything but the one spelling of a well-formed entry.
    """
    match = _LEAF.fullmatch(strict.utf8_text(data, what="hashedrekord"))
    if match is None:
        raise _fault(data)
    algorithm, digest, content, key_details, kind, verifier = match.groups()
    parsed = HashedRekord(
        digest=strict.base64_bytes(digest, what="hashedrekord.digest"),
        signature=strict.base64_bytes(content, what="hashedrekord.signature"),
        key_details=key_details,
        verifier_kind=VerifierKind(kind),
        verifier=strict.base64_bytes(verifier, what="hashedrekord.verifier"),
    )
    if parsed.algorithm != algorithm:
        raise MalformedError(f"hashedrekord: {key_details} signs {parsed.algorithm}, not {algorithm}")
    return parsed


def _fault(data: bytes) -> MalformedError:
    """Why it is no leaf. It only chooses the words: whatever this reading finds, the answer stays no."""
    try:
        value = jcs.parse_canonical(data, what="hashedrekord", max_bytes=len(data))
        leaf = jcs.Fields(value, what="hashedrekord", required=("apiVersion", "kind", "spec"))
        body = leaf.fields("spec", required=("hashedRekordV002",)).fields(
            "hashedRekordV002", required=("data", "signature")
        )
        body.fields("data", required=("algorithm", "digest")).base64("digest")
        signature = body.fields("signature", required=("content", "verifier"))
        signature.base64("content")
        verifier = signature.fields(
            "verifier", required=("keyDetails",), optional=tuple(kind.value for kind in VerifierKind)
        )
        verifier.text("keyDetails")
    except MalformedError as error:
        return error
    return MalformedError("hashedrekord: a name or a verifier in it is none of this format's")
